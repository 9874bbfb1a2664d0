"""A first flow of three routines, as a whole program."""

from routilux_core import Flow, Routine, event, field, slot


class Start(Routine):
    out = event("n")

    @slot
    def trigger(self, n: int) -> None:
        self.emit("out", n=n)


class Double(Routine):
    out = event("n")

    @slot
    def input(self, n: int) -> None:
        self.emit("out", n=n * 2)


class Keep(Routine):
    kept: list = field(factory=list)

    @slot
    def input(self, n: int) -> None:
        self.kept.append(n)


with Flow() as flow:
    keep = Keep()
    flow.add_routine(Start(), "start")
    flow.add_routine(Double(), "double")
    flow.add_routine(keep, "keep")
    flow.connect("start", "out", "double", "input")
    flow.connect("double", "out", "keep", "input")
    flow.execute("start", {"n": 21})
    flow.wait_for_completion()

if keep.kept != [42]:
    raise SystemExit(f"the flow kept {keep.kept}")
