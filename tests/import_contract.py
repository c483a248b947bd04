"""An import-linter contract that lists what a package may import, everything else being forbidden.

import-linter itself only has lists of what is forbidden, which a new dependency slips past.
"""

from __future__ import annotations

import sys

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class AllowedContract(Contract):
    """Direct imports of `source_package` stay within itself, `allowed_modules` and the stdlib."""

    type_name = "allowed"

    source_package = fields.StringField()
    allowed_modules = fields.SetField(subfield=fields.StringField())
    ignore_imports = fields.SetField(subfield=fields.StringField(), required=False)

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        root = str(self.source_package)
        allowed = [root, *self.allowed_modules, *sys.stdlib_module_names]
        ignored = set(self.ignore_imports or ())
        broken: list[str] = []
        for module in sorted({root} | graph.find_descendants(root)):
            for target in sorted(graph.find_modules_directly_imported_by(module)):
                edge = f"{module} -> {target}"
                fine = any(f"{target}.".startswith(f"{name}.") for name in allowed)
                if edge in ignored:
                    ignored.discard(edge)
                elif not fine:
                    broken.append(edge)
        unused = [f"{edge} (listed in ignore_imports, but not there)" for edge in sorted(ignored)]
        return ContractCheck(kept=not broken + unused, metadata={"broken": broken + unused})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for edge in check.metadata["broken"]:
            output.print_error(f"- {edge}")
