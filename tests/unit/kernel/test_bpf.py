import struct

from hypothesis import given
from hypothesis import strategies as st

from orlop.kernel.bpf import ACC_ALL, ACC_READ, ACC_WRITE, DEV_BLOCK, DEV_CHAR, DeviceMatch, assemble


def test_the_worked_example() -> None:
    program = assemble(
        [
            DeviceMatch(verdict=True, type=DEV_CHAR, major=1, minor=3),
            DeviceMatch(verdict=True, type=DEV_CHAR, major=1, minor=5, access=2),
        ],
        default=False,
    )
    assert program == bytes.fromhex(
        "6112000000000000 54020000ffff0000 6113000000000000 7403000010000000 6114040000000000 6115080000000000 "
        "5502040002000000 5504030001000000 5505020003000000 b700000001000000 9500000000000000 "
        "5502070002000000 bc31000000000000 5401000002000000 5d31040000000000 5504030001000000 5505020005000000 "
        "b700000001000000 9500000000000000 b700000000000000 9500000000000000"
    )


def run(program: bytes, access: int, kind: int, major: int, minor: int) -> bool:
    """Interpret the few instructions that the assembler knows, as the kernel would."""
    context = {0: access << 16 | kind, 4: major, 8: minor}
    registers = [0] * 6
    counter = 0
    while True:
        code, both, off, imm = struct.unpack_from("<BBhI", program, counter * 8)
        dst, src = both & 15, both >> 4
        counter += 1
        if code == 0x61:
            registers[dst] = context[off]
        elif code == 0x54:
            registers[dst] &= imm
        elif code == 0x74:
            registers[dst] >>= imm
        elif code == 0xBC:
            registers[dst] = registers[src]
        elif code == 0xB7:
            registers[dst] = imm
        elif code == 0x55:
            counter += off if registers[dst] != imm else 0
        elif code == 0x15:
            counter += off if registers[dst] == imm else 0
        elif code == 0x5D:
            counter += off if registers[dst] != registers[src] else 0
        else:
            assert code == 0x95
            return bool(registers[0])


numbers = st.none() | st.integers(0, 3)
matches = st.builds(
    DeviceMatch,
    verdict=st.booleans(),
    type=st.none() | st.sampled_from([DEV_BLOCK, DEV_CHAR]),
    major=numbers,
    minor=numbers,
    access=st.integers(1, ACC_ALL),
)


@given(
    st.lists(matches, max_size=6),
    st.booleans(),
    st.integers(1, 7),
    st.sampled_from([DEV_BLOCK, DEV_CHAR]),
    st.integers(0, 3),
    st.integers(0, 3),
)
def test_the_program_decides_as_the_rules_say(
    rules: list[DeviceMatch], default: bool, access: int, kind: int, major: int, minor: int
) -> None:
    expected = default
    for rule in rules:
        asked = access & ~rule.access == 0 if rule.verdict else access & rule.access != 0
        if rule.type in (None, kind) and rule.major in (None, major) and rule.minor in (None, minor) and asked:
            expected = rule.verdict
            break
    assert run(assemble(rules, default=default), access, kind, major, minor) is expected


def test_read_and_write_may_be_asked_for_together() -> None:
    program = assemble([DeviceMatch(verdict=True, access=ACC_READ | ACC_WRITE)], default=False)
    assert run(program, ACC_READ | ACC_WRITE, DEV_CHAR, 1, 1)
    assert not run(program, ACC_ALL, DEV_CHAR, 1, 1)
