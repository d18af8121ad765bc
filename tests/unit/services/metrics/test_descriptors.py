"""The names are those that cAdvisor gave and that the conformance suite expects; what a host does not count is not declared."""

from orlop.oci.cgroups.stats import Group
from orlop.services.metrics import descriptors as d

NAMES = """
blkio_device_usage_total cpu_cfs_periods_total cpu_cfs_throttled_periods_total cpu_cfs_throttled_seconds_total
cpu_system_seconds_total cpu_usage_seconds_total cpu_user_seconds_total file_descriptors fs_inodes_free fs_inodes_total
fs_limit_bytes fs_reads_bytes_total fs_reads_total fs_usage_bytes fs_writes_bytes_total fs_writes_total
hugetlb_max_usage_bytes hugetlb_usage_bytes last_seen memory_cache memory_failcnt memory_failures_total
memory_kernel_usage memory_mapped_file memory_max_usage_bytes memory_rss memory_swap memory_usage_bytes
memory_working_set_bytes network_receive_bytes_total network_receive_errors_total
network_receive_packets_dropped_total network_receive_packets_total network_transmit_bytes_total
network_transmit_errors_total network_transmit_packets_dropped_total network_transmit_packets_total oom_events_total
pressure_cpu_stalled_seconds_total pressure_cpu_waiting_seconds_total pressure_io_stalled_seconds_total
pressure_io_waiting_seconds_total pressure_memory_stalled_seconds_total pressure_memory_waiting_seconds_total
processes sockets spec_cpu_period spec_cpu_quota spec_cpu_shares spec_memory_limit_bytes
spec_memory_reservation_limit_bytes spec_memory_swap_limit_bytes start_time_seconds threads threads_max ulimits_soft
"""
EXPECTED = {f"container_{name}" for name in NAMES.split()}


def test_all_names_are_there_once_and_explained():
    names = [each.name for each in d.METRICS]
    assert len(EXPECTED) == 56
    assert len(names) == len(set(names))
    assert set(names) == EXPECTED
    for each in d.METRICS:
        assert each.help.endswith(".")
        assert not set(each.labels) & set(d.BASE_LABELS)


def test_a_name_that_counts_up_says_total_or_is_one_that_cadvisor_named_otherwise():
    for each in d.METRICS:
        if not each.gauge:
            assert each.name.endswith("_total") or each.name == "container_memory_failcnt"


def test_what_a_host_does_not_count_is_not_declared():
    assert d.declared(frozenset(Group)) == d.METRICS
    names = {each.name for each in d.declared({Group.CPU})}
    assert "container_cpu_usage_seconds_total" in names
    assert "container_network_receive_bytes_total" in names
    assert not any("pressure" in name or "hugetlb" in name or "memory_usage" in name for name in names)
