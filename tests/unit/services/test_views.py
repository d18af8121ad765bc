import msgspec

from orlop.metadata.pods import ContainerRow, PodStore, SandboxRow
from orlop.services.views import Views
from orlop.specs.pod import ContainerConfig, ContainerMetadata, ContainerState, SandboxConfig, SandboxMetadata


def test_a_view_is_the_same_object_until_its_row_is_replaced(tmp_path):
    pods = PodStore(tmp_path / "pods.db")
    views = Views(pods)
    sandbox = SandboxRow(
        id="s", name="s", config=SandboxConfig(metadata=SandboxMetadata(name="s")), handler="", created_at=1
    )
    pods.add_sandbox(sandbox)
    config = ContainerConfig(metadata=ContainerMetadata(name="c"))
    pods.add_container(
        ContainerRow(id="c", name="c", sandbox_id="s", config=config, reserved_at=1, created_at=2, started_at=3)
    )
    first = views.container(pods.container("c"))
    assert first.state is ContainerState.RUNNING
    assert views.container(pods.container("c")) is first
    pods.put_container(msgspec.structs.replace(pods.container("c"), finished_at=4, exit_code=7))
    second = views.container(pods.container("c"))
    assert (second.state, second.exit_code) == (ContainerState.EXITED, 7)
    assert views.sandbox(sandbox) is views.sandbox(pods.sandbox("s"))
    pods.close()
