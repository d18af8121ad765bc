from orlop.kernel.probe import FEATURES, Feature
from orlop.services.doctor import Verdict, report


def features(*missing: str) -> list[Feature]:
    return [Feature(name=name, available=name not in missing, reason="seen") for name in FEATURES]


def test_every_feature_has_a_meaning() -> None:
    every = report(features(*FEATURES), root=True, kernel="6")
    assert every.verdict is Verdict.BROKEN
    assert all(finding.meaning for finding in every.findings)


def test_all_is_well() -> None:
    good = report(features("selinux"), root=True, kernel="6")
    assert good.verdict is Verdict.OK
    assert all(finding.verdict is Verdict.OK for finding in good.findings)


def test_the_worst_finding_counts() -> None:
    assert report(features("pressure"), root=True, kernel="6").verdict is Verdict.LIMITED
    assert report(features("pressure", "overlay"), root=True, kernel="6").verdict is Verdict.BROKEN
    assert report(features(), root=False, kernel="6").findings[0].name == "root"
