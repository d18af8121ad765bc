"""The wire forms of CRI (api.proto) and of orlop's own service for its command line (orlop.proto), as protobuf classes.

api_pb2 and orlop_pb2 are made by scripts/generate-protobuf and never edited; the .proto files are the source. There are no
generated gRPC stubs: cri/ and cli/client.py, the only importers of grpc, make theirs from the service descriptors
(``api_pb2.DESCRIPTOR.services_by_name``). Test: tests/unit/specs/test_cri_gen.py, tests/contract.
"""
