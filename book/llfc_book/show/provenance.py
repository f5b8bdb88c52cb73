"""The last part of a page, which says what it is made from. The build imports this: nothing
heavy here.
"""

from typing import Any

#: The heads of row_of's cells.
HEAD = ("record", "profile", "pairs", "data", "seeds", "measured at commit", "on")
HEAD += ("training and measuring (min)", "versions", "finished")


def provenance(run: dict[str, Any]) -> str:
    """The last part of a page, folded: the run of what it measured, then the records that it
    shows.
    """
    device = f"{run['device']}: " if run.get("device") else ""
    parts = [
        f"profile **{run['profile']}**",
        f"commit `{run['commit']}`",
        f"data: {run['data']}" if run.get("data") else "",
        f"{device}{run['cpu']}, {run['threads']} thread",
        f"seeds {', '.join(map(str, run['seeds']))}" if run.get("seeds") else "",
        f"{run['seconds']:.0f} s",
        f"Python {run['python']}, torch {run['torch']}",
    ]
    lines = [
        "::::{dropdown} How this page was made",
        ":class-container: provenance",
        f"Measured as the page was made: {'; '.join(part for part in parts if part)}.",
    ]
    if run.get("records"):
        lines += ["", "Records shown:", "", "```{list-table}", ":header-rows: 1"]
        lines += [":class: table-scroll", ""]
        for row in [HEAD, *map(row_of, run["records"])]:
            lines += [("  - " if k else "* - ") + cell for k, cell in enumerate(row)]
        lines += ["```"]
    return "\n".join([*lines, "::::", ""])


def row_of(record: dict[str, Any]) -> list[str]:
    """One record and profile in the table of those that a page shows."""
    r = {key: ", ".join(x) if isinstance(x, list) else x for key, x in record.items()}
    return [
        f"`{r['record']}`",
        r["profile"],
        str(r["pairs"]),
        r["data"],
        r["seeds"],
        ", ".join(f"`{commit}`" for commit in record["commits"]),
        f"{r['device']}: {r['cpu']}, {r['threads']} thread",
        f"{r['train_minutes']:,} and {r['measure_minutes']:,}",
        f"Python {r['python']}, torch {r['torch']}",
        r["finished"],
    ]
