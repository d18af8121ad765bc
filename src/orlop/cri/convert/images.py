"""Images: specs in, specs and records out. Test: tests/unit/cri/test_convert.py."""

from __future__ import annotations

from orlop.base import limits
from orlop.cri.convert import check
from orlop.specs import pod
from orlop.specs.cri_gen import api_pb2 as pb


def image_spec_in(spec: pb.ImageSpec, field: str) -> pod.ImageSpec:
    return pod.ImageSpec(
        image=check.text(spec.image, f"{field}.image", maximum=limits.NAME_BYTES),
        annotations=check.labels(spec.annotations, f"{field}.annotations", limits.ANNOTATION_BYTES),
        user_specified_image=check.text(
            spec.user_specified_image, f"{field}.user_specified_image", maximum=limits.NAME_BYTES
        ),
        runtime_handler=check.text(spec.runtime_handler, f"{field}.runtime_handler", maximum=limits.NAME_BYTES),
        image_ref=check.text(spec.image_ref, f"{field}.image_ref", maximum=limits.NAME_BYTES),
    )


def image_spec_out(spec: pod.ImageSpec) -> pb.ImageSpec:
    return pb.ImageSpec(
        image=spec.image,
        annotations=spec.annotations,
        user_specified_image=spec.user_specified_image,
        runtime_handler=spec.runtime_handler,
        image_ref=spec.image_ref,
    )
