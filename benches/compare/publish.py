"""Takes tables into a page, between `<!-- figures: NAME -->` and `<!-- end -->`, and charts into a folder beside it."""

import re
import shutil
from pathlib import Path

_BEGIN = re.compile(r"^<!-- figures: *([\w-]+) *-->$")
_END = re.compile(r"^<!-- end -->$")


class Unpublishable(Exception):
    """The page cannot take the tables; the text says what to change in it."""


def filled(page, tables):
    """The page's text with each marked part replaced. Raises Unpublishable, having changed nothing."""
    lines, inside, names = [], None, []
    for place, line in enumerate(page.splitlines(), 1):
        begin, end = _BEGIN.match(line.strip()), _END.match(line.strip())
        if begin:
            if inside:
                raise Unpublishable(f"line {place}: a part begins within the part '{inside}', which has no <!-- end -->")
            inside = begin.group(1)
            if inside not in tables:
                raise Unpublishable(f"line {place}: there are no figures '{inside}'; there are: {', '.join(tables)}")
            names.append(inside)
            lines += [line, "", tables[inside], ""]
        elif end and inside is None:
            raise Unpublishable(f"line {place}: <!-- end --> without a beginning")
        elif end:
            lines.append(line)
            inside = None
        elif inside is None:
            lines.append(line)
    if inside:
        raise Unpublishable(f"the part '{inside}' has no <!-- end -->")
    if not names:
        raise Unpublishable("it has no part marked <!-- figures: NAME --> … <!-- end -->")
    return "\n".join(lines) + "\n"


def publish(tables, charts, page, folder):
    """Fills the page and copies the charts; returns the names of the files written. The page is looked at first."""
    page, folder = Path(page), Path(folder)
    if not page.is_file():
        raise Unpublishable(f"{page.name} is not there; it must hold the parts marked <!-- figures: NAME --> … <!-- end -->")
    try:
        text = filled(page.read_text(), tables)
    except Unpublishable as error:
        raise Unpublishable(f"{page.name}: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for chart in sorted(charts):
        shutil.copyfile(chart, folder / Path(chart).name)
        written.append(folder / Path(chart).name)
    page.write_text(text)
    return [page, *written]
