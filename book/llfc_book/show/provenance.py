"""The last part of a page, which says what it is made from. The build imports this: nothing
heavy here.
"""

from typing import Any


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
    rows = [_row(record) for record in run.get("records", ())]
    if rows:
        lines += ["", "Records shown:", "", "```{list-table}", ":header-rows: 1"]
        lines += [":class: table-scroll", ""]
        for row in [list(rows[0]), *(row.values() for row in rows)]:
            lines += [("  - " if k else "* - ") + cell for k, cell in enumerate(row)]
        lines += ["```"]
    return "\n".join([*lines, "::::", ""])


def _row(record: dict[str, Any]) -> dict[str, str]:
    """One record and profile in the table of those that a page shows, by the heads of columns."""
    r = {key: ", ".join(x) if isinstance(x, list) else x for key, x in record.items()}
    return {
        "record": f"`{r['record']}`",
        "profile": r["profile"],
        "pairs": str(r["pairs"]),
        "data": r["data"],
        "seeds": r["seeds"],
        "measured at commit": ", ".join(f"`{commit}`" for commit in record["commits"]),
        "on": f"{r['device']}: {r['cpu']}, {r['threads']} thread",
        "training and measuring (min)": f"{r['train_minutes']:,} and {r['measure_minutes']:,}",
        "versions": f"Python {r['python']}, torch {r['torch']}",
        "finished": r["finished"],
    }
