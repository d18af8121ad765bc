"""The wire forms of NRI (nri.proto) and of the ttrpc calls that carry it (ttrpc.proto), as protobuf classes.

nri_pb2 and ttrpc_pb2 are made by scripts/generate-protobuf and never edited; the .proto files are the source.
Test: tests/unit/specs/test_nri_gen.py, tests/contract/test_nri_descriptor.py.
"""
