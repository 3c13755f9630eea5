"""Networks of which only a path runs: PathNet and its like."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from recollect._checks import check_one_of
from recollect.tracing.choosing import Modules, choose_modules
from recollect.tracing.folding import Layout, Reduce
from recollect.tracing.views import ModulesView, Piece, Run, View

__all__ = ["PathView"]


class PathView(View):
    """The modules that a path took through stages of interchangeable modules.

    Each module that ran is an object, named ``stage/module``; its attribute is its pooled output.
    What did not run is not there: which modules the paths of a task use, and how often, are
    counts. The stages are the network's ``nn.ModuleList`` of ``nn.ModuleList``, or what its
    attribute ``path_modules`` or ``modules=`` names.

    Args:
        reduce: as for ``view="modules"``.
        per: ``"item"`` for a glance of each item of the batch; ``"forward"`` for one glance of
            the whole forward, its attributes averaged over the batch: a glance of the path.

    Raises:
        ValueError: if the network has no stages of modules, or ``per`` is unknown.

    Reference: "PathNet: evolution channels gradient descent in super neural networks" (Fernando,
    Banarse, Blundell, Zwols, Ha, Rusu, Pritzel and Wierstra, 2017).

    Example:
        >>> import torch
        >>> from recollect import trace
        >>> class Two(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         stage = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
        ...         self.stages = nn.ModuleList([stage])
        ...     def forward(self, x, path):
        ...         return sum(self.stages[0][k](x) for k in path)
        >>> trace(Two(), (torch.ones(5, 2), [0, 2]), view="path").modules
        ('0/0', '0/2')
    """

    def __init__(self, reduce: Reduce = "mean", per: str = "item") -> None:
        self._plain = ModulesView(reduce)
        self._per = check_one_of("per", per, ("item", "forward"))
        self._short: dict[str, str] = {}

    def choose(self, model: nn.Module, modules: Modules, nested: bool) -> dict[str, nn.Module]:
        """Return the modules of all stages."""
        wished = modules if modules is not None else getattr(model, "path_modules", None)
        if wished is not None:
            chosen = choose_modules(model, wished)
            self._short = {name: name for name in chosen}
            return chosen
        for name, m in model.named_modules():
            stages = list(m) if isinstance(m, nn.ModuleList) else []
            if stages and all(isinstance(stage, nn.ModuleList) for stage in stages):
                self._short = {
                    f"{name}.{s}.{k}": f"{s}/{k}" for s, stage in enumerate(stages)
                    for k in range(len(stage))  # type: ignore[arg-type]
                }  # fmt: skip
                return {full: model.get_submodule(full) for full in self._short}
        raise ValueError(
            'view="path" needs a network whose stages hold modules to choose from; '
            f"{type(model).__name__} holds no torch.nn.ModuleList of ModuleLists: name the "
            "modules with modules=, or in its attribute path_modules"
        )

    def piece(self, name: str, t: Tensor, layout: Layout, module: nn.Module) -> Piece | None:
        """Return one object per glance."""
        full, mark, more = name.partition("#")
        full, bracket, place = full.partition("[")
        short = self._short.get(full, full) + mark + more + bracket + place
        return self._plain.piece(short, t, layout, module)

    def conclude(self, run: Run, model: nn.Module, output: object) -> None:
        """Average over the batch, if the whole forward is one glance."""
        if len({p.name for p in run.pieces}) == len(self._short) > 1:
            run.notes.append("every module ran: this forward chose no path")
        if self._per == "forward":
            for p in run.pieces:
                p.attributes = p.attributes.mean(0, keepdim=True)
            run.layout = replace(run.layout, batch=1)
