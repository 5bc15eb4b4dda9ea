"""PTX text as instructions and labels; directives, scopes and debug sections are left out."""

import re
from dataclasses import dataclass
from functools import cache


class Unknown(Exception):
    """An instruction, a type or a register that the simulator has not been taught."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One statement: ``@!%p1 ld.global.b32 %r1, [%rd1+4]``."""

    text: str
    predicate: str
    """The register that says which threads execute it; empty: all."""
    is_negated: bool
    opcode: tuple[str, ...]
    """``("ld", "global", "b32")``."""
    operands: tuple[str, ...]
    """As written: a register, a number, ``{…}`` or ``[…]``."""


@dataclass(frozen=True, slots=True)
class Program:
    """One kernel."""

    parameters: tuple[str, ...]
    instructions: tuple[Instruction, ...]
    labels: dict[str, int]
    """Index of the instruction behind each label."""


def parse(module: str) -> Program:
    """The kernel of a module that has only one."""
    begin = module.index("{", module.index(".entry"))
    parameters = re.findall(r"\.param\s[^,)]*?(\w+_param_\d+)", module[:begin])
    return parse_body(module[begin:].partition(".section")[0], tuple(parameters))


def parse_body(text: str, parameters: tuple[str, ...] = ()) -> Program:
    """Statements that end with semicolons, and labels at the ends of lines."""
    text = re.sub(r"//.*", "", text)
    text = re.sub(r"^\s*\.(loc|file|pragma)\b.*$", "", text, flags=re.MULTILINE)
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for part in re.split(r";|(?<=:)\s", text):
        # No instruction begins with a brace, so leading ones open or close a scope.
        statement = " ".join(part.split()).lstrip("{} ")
        if statement.endswith(":"):
            labels[statement[:-1]] = len(instructions)
        elif statement and not statement.startswith(".reg "):
            instructions.append(_instruction(statement))
    return Program(parameters, tuple(instructions), labels)


@cache
def registers_of(operand: str) -> tuple[str, ...]:
    """The registers of ``{a, b}``, or the one that stands alone."""
    return tuple(operand.strip("{} ").replace(",", " ").split())


@cache
def address_of(operand: str) -> tuple[str, int]:
    """Base and offset of ``[base+offset]``."""
    base, _, offset = operand.strip("[] ").partition("+")
    return base.strip(), int(offset or "0", 0)


def _instruction(statement: str) -> Instruction:
    match = re.fullmatch(r"(?:@(!?)(%p\d+) )?(\S+) ?(.*)", statement)
    if match is None:
        raise ValueError(f"not an instruction: {statement}")
    # Operands are separated by commas, and so are the registers within braces.
    operands = re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+", match[4])
    if any("|" in operand for operand in operands):
        raise Unknown(f"{statement}: a second result is not known")
    return Instruction(statement, match[2] or "", match[1] == "!", tuple(match[3].split(".")), tuple(operands))
