"""The library reference: a directive that shows the public names of modules with what their
docstrings say.

::

    ```{api} llfc_lib.metrics
    ```

The modules are read and not imported, so a build needs no torch and waits for none. A name that a
package lists in ``__all__`` is shown as readers import it, from there. A docstring may end with a
line ``Source: ...``: the definition, section, figure or paper that the code is from; one in the
docstring of a module holds for those of its functions that name none. A public function or class
without a docstring is a warning, and so is a role that leads nowhere.
"""

import ast
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

log = logging.getLogger("apidoc")

ROOM_FOR_SIGNATURE = 88  # characters; a longer one has a line a parameter
LONGEST_VALUE = 70  # of a constant, in characters
MARKUP = re.compile(
    r"``(?P<code>.+?)``|:(?:py:)?(?P<role>func|class|meth|data|mod|exc|attr):`(?P<target>[^`]+)`",
    re.DOTALL,
)
SOURCE = re.compile(r"(?:\A|\n\s*\n)Source: (.+)\Z", re.DOTALL)
SECTION = re.compile(r"\b([AB]\.\d)(\.\d)?\b")
#: Pages of the book that a section of the appendix is linked to, where there are such pages.
CHAPTERS = {
    "A.1": "notebooks/A1_lemma",
    "A.2": "notebooks/A2_theorem",
    "A.3": "notebooks/A3_assignment",
    "B.1": "notebooks/B1_settings",
    "B.2": "notebooks/B2_llfc",
    "B.3": "notebooks/B3_commutativity",
    "B.4": "notebooks/B4_stitching",
    "B.5": "notebooks/B5_rebasin",
}


# reading modules


@dataclass(frozen=True)
class Entry:
    """A public name: ``defined`` is where its code is, ``name`` what readers import; ``owner`` the
    class of a method.
    """

    defined: str
    module: str
    kind: str  # function, class, exception, method, property, data, type
    signature: str
    text: str
    source: str = ""
    name: str = ""
    owner: str = ""
    options: dict[str, Any] = field(default_factory=dict, hash=False, compare=False)
    members: tuple["Entry", ...] = ()
    mentions: frozenset[str] = frozenset()  # names in its signature

    @property
    def short(self) -> str:
        return self.defined.rsplit(".", 1)[1]


@dataclass(frozen=True)
class Module:
    """One file: its docstring, its public names in their order, and what its imports call what."""

    name: str
    path: Path
    text: str
    source: str
    entries: tuple[Entry, ...]
    imports: dict[str, str]
    exported: tuple[str, ...]


@dataclass(frozen=True)
class Library:
    """All modules of a package, and all entries by where they are defined."""

    modules: dict[str, Module]
    entries: dict[str, Entry]

    def find(self, name: str) -> Entry | None:
        """The entry that a full name leads to, through imports if need be."""
        parts = name.split(".")
        for cut in range(len(parts) - 1, 0, -1):
            module, rest = self.modules.get(".".join(parts[:cut])), parts[cut:]
            if module is None:
                continue
            if entry := self.entries.get(".".join([module.name, *rest])):
                return entry
            imported = module.imports.get(rest[0])
            if (
                imported
                and (len(rest) == 1 or ".".join(parts[: cut + 1]) not in self.modules)
                and imported != name
            ):
                return self.find(".".join([imported, *rest[1:]]))
        return None

    def resolve(self, name: str, module: str, owner: str = "") -> Entry | None:
        """The entry that ``name`` means inside of ``module``, or of its class ``owner``."""
        tried = [f"{module}.{owner}.{name}"] * bool(owner) + [f"{module}.{name}", name]
        return next((found for found in map(self.find, tried) if found), None)

    def is_foreign(self, name: str, module: str) -> bool:
        """Whether the name belongs to somebody else: something imported, or a module of the
        standard library.
        """
        first, own, imports = name.split(".")[0], module.split(".")[0], self.modules[module].imports
        roots = {target.split(".")[0] for target in imports.values()} - {own}
        imported = imports.get(first, own).split(".")[0] != own
        return imported or ("." in name and (first in roots or first in sys.stdlib_module_names))

    @cached_property
    def needed(self) -> frozenset[str]:
        """Constants and aliases that a signature or a docstring mentions; others are no part of the
        reference.
        """
        found = set()
        for module in self.modules.values():
            mentioned = [(name, "") for name in targets_of(module.text)]
            for entry in module.entries:
                for part in (entry, *entry.members):
                    mentioned += [
                        (name, entry.short) for name in (*targets_of(part.text), *part.mentions)
                    ]
            found |= {
                entry.defined
                for name, owner in mentioned
                if (entry := self.resolve(name, module.name, owner))
            }
        return frozenset(found)


def targets_of(text: str) -> list[str]:
    return [match["target"].lstrip("~") for match in MARKUP.finditer(text) if match["target"]]


@lru_cache(maxsize=4)
def read_library(folder: Path) -> Library:
    """Parse every module of the package in ``folder``; none is imported."""
    modules = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules[name] = read_module(name, path)
    renamed = {}
    for module in modules.values():
        for exported in module.exported:
            defined = module.imports.get(exported, "")
            renamed.setdefault(defined, f"{module.name}.{exported}")
    entries = {}
    for name, module in modules.items():
        named = tuple(
            with_name(entry, renamed.get(entry.defined, entry.defined)) for entry in module.entries
        )
        modules[name] = replace(module, entries=named)
        for entry in named:
            entries |= {part.defined: part for part in (entry, *entry.members)}
    return Library(modules, entries)


def with_name(entry: Entry, name: str) -> Entry:
    return replace(
        entry, name=name, members=tuple(replace(m, name=f"{name}.{m.short}") for m in entry.members)
    )


def read_module(name: str, path: Path) -> Module:
    code = path.read_text()
    tree = ast.parse(code)
    text, source = split_docstring(ast.get_docstring(tree))
    imports, exported = {}, ()
    statements = [
        inner for node in tree.body for inner in (node.body if isinstance(node, ast.If) else [node])
    ]
    for node in statements:
        if isinstance(node, ast.Import):
            imports |= {
                alias.asname or alias.name.split(".")[0]: (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
                for alias in node.names
            }
        elif isinstance(node, ast.ImportFrom):
            imports |= {
                alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names
            }
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            exported = tuple(ast.literal_eval(node.value))
    lines = code.splitlines()
    entries = [entry for node in tree.body for entry in entries_of(node, name, lines)]
    return Module(
        name,
        path,
        text,
        source,
        tuple(replace(e, source=e.source or source) for e in entries),
        imports,
        exported,
    )


def split_docstring(docstring: str | None) -> tuple[str, str]:
    """The text, and what the last paragraph names as the source."""
    text = docstring or ""
    match = SOURCE.search(text)
    return (
        (text[: match.start()].rstrip(), " ".join(match[1].split()).rstrip("."))
        if match
        else (text, "")
    )


def entries_of(node: ast.stmt, module: str, lines: Sequence[str]) -> Iterator[Entry]:
    """What a statement of a module defines for others."""
    if isinstance(node, ast.FunctionDef) and is_public(node.name):
        yield function_entry(node, module)
    elif isinstance(node, ast.ClassDef) and is_public(node.name):
        yield class_entry(node, module)
    elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        names = target.elts if isinstance(target, ast.Tuple) else [target]
        values = (
            node.value.elts
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
            else [node.value] * len(names)
        )
        for part, value in zip(names, values, strict=True):
            if isinstance(part, ast.Name) and is_public(part.id):
                yield constant_entry(part.id, value, node, module, lines)


def is_public(name: str) -> bool:
    return not name.startswith("_")


def constant_entry(
    name: str, value: ast.expr, node: ast.stmt, module: str, lines: Sequence[str]
) -> Entry:
    """A constant, or an alias of a type; what is said of it is the comment beside or above it."""
    kind = (
        "type"
        if isinstance(value, ast.Subscript | ast.BinOp) and name[1:] != name[1:].upper()
        else "data"
    )
    beside = lines[node.end_lineno - 1][node.end_col_offset :].partition("#")[2]
    above = []
    for line in reversed(lines[: node.lineno - 1]):
        if not line.startswith("#") or line.startswith("# ---"):
            break
        above.insert(0, line.lstrip("#:").strip())
    shown = ast.unparse(annotation(value) if kind == "type" else value)
    options = (
        {"canonical" if kind == "type" else "value": shown} if len(shown) <= LONGEST_VALUE else {}
    )
    return Entry(
        f"{module}.{name}",
        module,
        kind,
        name,
        (beside.lstrip(":") or " ".join(above)).strip(),
        options=options,
    )


def names_in(*trees: ast.AST | None) -> frozenset[str]:
    found = set()
    for tree in trees:
        for node in ast.walk(tree) if tree else ():
            if isinstance(node, ast.Name | ast.Attribute):
                found.add(ast.unparse(node))
    return frozenset(found)


class Unquoted(ast.NodeTransformer):
    """Annotations in quotes, without them."""

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        return ast.parse(node.value, mode="eval").body if isinstance(node.value, str) else node

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        return node if ast.unparse(node.value).endswith("Literal") else self.generic_visit(node)


def annotation(node: ast.expr | None) -> ast.expr | None:
    return Unquoted().visit(node) if node is not None else None


def readable(default: ast.expr) -> ast.expr:
    """The default of a parameter; dots for one that Sphinx cannot read."""
    return (
        ast.Constant(...)
        if any(isinstance(node, ast.Starred) for node in ast.walk(default))
        else default
    )


def parameters(arguments: ast.arguments, bound: bool) -> ast.arguments:
    """Without ``self``, and with annotations that are not quoted."""
    arguments.defaults = [readable(default) for default in arguments.defaults]
    for argument in (
        *arguments.posonlyargs,
        *arguments.args,
        *arguments.kwonlyargs,
        arguments.vararg,
        arguments.kwarg,
    ):
        if argument is not None:
            argument.annotation = annotation(argument.annotation)
    if bound:
        arguments.args = arguments.args[1:]
    return arguments


def function_entry(node: ast.FunctionDef, module: str, owner: str = "") -> Entry:
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    is_property = bool(decorators & {"property", "cached_property"})
    kind = "property" if is_property else "method" if owner else "function"
    options: dict[str, Any] = {
        option: None for option in ("classmethod", "staticmethod") if option in decorators
    }
    arguments, returns = (
        parameters(node.args, bool(owner) and "staticmethod" not in decorators),
        annotation(node.returns),
    )
    given = ast.unparse(returns) if returns is not None else ""
    signature = f"{owner}.{node.name}" if owner else node.name
    if is_property:
        options["type"] = given
    else:
        signature += f"({ast.unparse(arguments)})" + (f" -> {given}" if given else "")
    text, source = split_docstring(ast.get_docstring(node))
    prefix = f"{module}.{owner}" if owner else module
    return Entry(
        f"{prefix}.{node.name}",
        module,
        kind,
        signature,
        text,
        source,
        owner=owner,
        options=options,
        mentions=names_in(arguments, returns),
    )


def class_entry(node: ast.ClassDef, module: str) -> Entry:
    """A class with the parameters it is made of and those of its methods that have something to
    say.
    """
    bases = [ast.unparse(base) for base in node.bases]
    functions = [part for part in node.body if isinstance(part, ast.FunctionDef)]
    init = next((part for part in functions if part.name == "__init__"), None)
    if init is not None:
        arguments = parameters(init.args, bound=True)
    elif any(ast.unparse(decorator).startswith("dataclass") for decorator in node.decorator_list):
        arguments = dataclass_parameters(node)
    else:
        arguments = None
    signature = node.name + (f"({ast.unparse(arguments)})" if arguments is not None else "")
    kind = "exception" if any(base.endswith("Error") for base in bases) else "class"
    text, source = split_docstring(ast.get_docstring(node))
    members = tuple(
        function_entry(part, module, node.name) for part in functions if is_public(part.name)
    )
    return Entry(
        f"{module}.{node.name}",
        module,
        kind,
        signature,
        text,
        source,
        members=members,
        options={"bases": bases},
        mentions=names_in(arguments),
    )


def dataclass_parameters(node: ast.ClassDef) -> ast.arguments:
    """What ``__init__`` of a dataclass takes: its fields, those with a factory with what it makes."""
    made = []
    for part in node.body:
        if isinstance(part, ast.AnnAssign) and "ClassVar" not in ast.unparse(part.annotation):
            value = part.value
            if isinstance(value, ast.Call) and ast.unparse(value.func) == "field":
                given = {keyword.arg: keyword.value for keyword in value.keywords}
                factory = given.get("default_factory")
                made_by = (
                    factory.body
                    if isinstance(factory, ast.Lambda)
                    else factory and ast.Call(factory, [], [])
                )
                value = made_by or given.get("default")
            made.append(
                (ast.arg(part.target.id, annotation(part.annotation)), value and readable(value))
            )
    return ast.arguments(
        posonlyargs=[],
        args=[arg for arg, _ in made],
        kwonlyargs=[],
        kw_defaults=[],
        defaults=[value for _, value in made if value is not None],
    )


#: Methods that every metric and every network has: described once, in the protocol, and not in each
#: class again.
COMMON = {"start", "update", "rows", "forward"}


def findings(entry: Entry) -> list[str]:
    """What is missing from the documentation of an entry."""
    found = []
    if entry.kind in ("function", "class", "exception"):
        found += [f"{entry.name} has no docstring"] * (not entry.text)
    found += [
        f"{member.name} has no docstring"
        for member in entry.members
        if not member.text and member.short not in COMMON
    ]
    return found


def modules_below(
    library: Library, names: Iterable[str], without: Iterable[str] = ()
) -> list[Module]:
    """The modules ``names`` and all inside of them, but for those ``without``."""

    def inside(module: str, packages: Iterable[str]) -> bool:
        return any(module == package or module.startswith(f"{package}.") for package in packages)

    names, without = list(names), list(without)
    unknown = [
        name
        for name in (*names, *without)
        if not any(inside(module, [name]) for module in library.modules)
    ]
    if unknown:
        raise ValueError(f"there is no module {', '.join(unknown)}")
    return [
        module
        for name, module in library.modules.items()
        if inside(name, names) and not inside(name, without)
    ]


def first_sentence(text: str) -> str:
    """Up to the first full stop that ends a sentence, or a colon or semicolon with a space behind
    it where that comes first.
    """
    paragraph = " ".join(text.split("\n\n")[0].split())
    match = re.search(r"(?<!e\.g)(?<!i\.e)(?<!\bal)[.](?= [A-Z\"`:(]|$)", paragraph)
    return paragraph[: match.end()] if match else paragraph


# showing them


class Api(SphinxDirective):
    """``{api} module ...``: a summary table, then a section a module. ``:without:`` leaves modules
    out.
    """

    required_arguments = 1
    final_argument_whitespace = True
    option_spec: ClassVar[dict[str, Any]] = {"without": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        names = self.arguments[0].split()
        try:
            self.library = library_of(Path(self.env.srcdir), names[0].split(".")[0])
            modules = modules_below(self.library, names, self.options.get("without", "").split())
        except ValueError as error:
            raise self.error(str(error)) from error
        self.needed = self.library.needed
        shown = {
            module.name: [
                entry
                for entry in module.entries
                if entry.kind not in ("data", "type") or entry.defined in self.needed
            ]
            for module in modules
        }
        shown = {name: entries for name, entries in shown.items() if entries}
        for module in modules:
            self.env.note_dependency(str(module.path))
        for entry in (entry for entries in shown.values() for entry in entries):
            for finding in findings(entry):
                log.warning("%s", finding, location=self.get_location(), type="apidoc")
        result: list[nodes.Node] = []
        package = self.library.modules.get(
            names[0]
        )  # a folder without __init__.py has nothing to say
        if package and len(names) == 1:
            result += self.blocks(package.text, package.name)
            self.target(package, result)
        result.append(self.summary([entry for entries in shown.values() for entry in entries]))
        single = len(modules) == 1
        for name, entries in shown.items():
            described = [node for entry in entries for node in self.describe(entry)]
            result += (
                described
                if single
                else [self.section(self.library.modules[name], described, name == names[0])]
            )
        return result

    def section(
        self, module: Module, described: Sequence[nodes.Node], is_page: bool
    ) -> nodes.section:
        """One module with its docstring; that of the page's own package stands at the top of the
        page.
        """
        title = module.name.partition(".")[2]
        section = nodes.section(
            "",
            nodes.title("", "", nodes.literal("", title)),
            ids=[f"file-{nodes.make_id(module.name)}"],
            names=[f"file {module.name}"],
        )
        self.state.document.note_implicit_target(section)
        if not is_page:
            section += self.blocks(module.text, module.name)
            self.target(module, [section])
        section += described
        return section

    def target(self, module: Module, holders: list[nodes.Node]) -> None:
        """Make the module known to ``:mod:``, unless a function is imported by the very same name."""
        if any(entry.name == module.name for entry in self.library.entries.values()):
            return
        domain, node_id = self.env.get_domain("py"), f"module-{module.name}"
        domain.note_module(module.name, node_id, "", "", False)
        domain.note_object(module.name, "module", node_id, location=self.get_location())
        target = nodes.target("", "", ids=[node_id])
        if holders and isinstance(holders[0], nodes.section):
            holders[0]["ids"].append(node_id)
        else:
            holders.insert(0, target)

    def describe(self, entry: Entry) -> list[nodes.Node]:
        """The entry as Sphinx's Python domain shows one, with types linked to where they are
        described.
        """
        options = {key: value for key, value in entry.options.items() if key != "bases"}
        package, _, _ = entry.name.rpartition(
            f".{entry.owner}.{entry.short}" if entry.owner else "."
        )
        options["module"] = package
        if entry.name != entry.defined:
            options["canonical"] = entry.defined
        directive = self.env.get_domain("py").directive(entry.kind)(
            f"py:{entry.kind}",
            [entry.signature],
            options,
            StringList(),
            self.lineno,
            self.content_offset,
            "",
            self.state,
            self.state_machine,
        )
        index, description = directive.run()
        signature, content = description.children
        if entry.owner:
            for prefix in list(signature.findall(addnodes.desc_addname)):
                prefix.parent.remove(prefix)
        self.link_types(signature, entry)
        content += self.blocks(
            entry.text, entry.module, entry.owner or (entry.short if entry.members else "")
        )
        if entry.source and not entry.owner:
            body = nodes.field_body("", nodes.paragraph("", "", *self.with_sections(entry.source)))
            content += nodes.field_list(
                "", nodes.field("", nodes.field_name("", "Source"), body), classes=["api-source"]
            )
        for member in entry.members:
            if member.text:
                content += self.describe(member)
        return [index, description]

    def link_types(self, signature: nodes.Element, entry: Entry) -> None:
        """Our own types lead to their entries; those of others are plain text, so that no list of
        exceptions is needed.
        """
        for link in list(signature.findall(addnodes.pending_xref)):
            found = self.library.resolve(
                link["reftarget"], entry.module, entry.owner or entry.short
            )
            if found is None or not self.is_shown(found):
                link.replace_self(link.children)
            else:
                link["reftype"], link["reftarget"], link["refspecific"] = "obj", found.name, False
                link["py:module"] = link["py:class"] = None
        for default in list(signature.findall(nodes.inline)):
            if "default_value" in default["classes"]:
                found = self.library.resolve(default.astext(), entry.module)
                if found and self.is_shown(found):
                    text = default.astext()
                    default.clear()
                    default += self.link(found, nodes.Text(text))

    def is_shown(self, entry: Entry) -> bool:
        return entry.kind not in ("data", "type") or entry.defined in self.needed

    def link(self, entry: Entry, content: nodes.Node) -> addnodes.pending_xref:
        return self.link_to(entry.name, "obj", content)

    def link_to(self, target: str, role: str, content: nodes.Node) -> addnodes.pending_xref:
        link = addnodes.pending_xref(
            "",
            content,
            refdomain="py",
            reftype=role,
            reftarget=target,
            refexplicit=True,
            refwarn=True,
            refdoc=self.env.docname,
        )
        link["py:module"] = link["py:class"] = None
        link.source, link.line = self.get_source_info()
        return link

    def blocks(self, text: str, module: str, owner: str = "") -> list[nodes.Node]:
        """A docstring's paragraphs, lists and indented lines."""
        found: list[nodes.Node] = []
        for block in re.split(r"\n\s*\n", text):
            if not block.strip() or block.strip() == "::":
                continue
            lines = block.splitlines()
            if all(line.startswith("    ") for line in lines):
                found.append(
                    nodes.literal_block("", inspect.cleandoc("\n" + block), language="text")
                )
            elif lines[0].startswith("- "):
                items = re.split(r"(?:\A|\n)- ", block)[1:]
                found.append(
                    nodes.bullet_list(
                        "",
                        *(
                            nodes.list_item(
                                "", nodes.paragraph("", "", *self.inline(item, module, owner))
                            )
                            for item in items
                        ),
                    )
                )
            else:
                found.append(nodes.paragraph("", "", *self.inline(block, module, owner)))
        return found

    def inline(self, text: str, module: str, owner: str = "") -> list[nodes.Node]:
        """Text with its double backticks and roles."""
        text, found, at = " ".join(text.split()), [], 0
        for match in MARKUP.finditer(text):
            found.append(nodes.Text(text[at : match.start()]))
            at = match.end()
            found.append(
                nodes.literal("", match["code"])
                if match["code"]
                else self.role(match["role"], match["target"], module, owner)
            )
        return [*found, nodes.Text(text[at:])]

    def role(self, role: str, target: str, module: str, owner: str) -> nodes.Node:
        """A link to one of our own; names of others and private ones are shown as they are."""
        name = target.lstrip("~")
        shown = name.rsplit(".", 1)[-1] if target.startswith("~") else name
        content = nodes.literal(
            "",
            f"{shown}()" if role in ("func", "meth") else shown,
            classes=["xref", "py", f"py-{role}"],
        )
        if role == "mod":
            return self.link_to(name, "mod", content) if name in self.library.modules else content
        found = self.library.resolve(name, module, owner)
        if found is None and self.library.is_foreign(name, module):
            return content
        return self.link(found, content) if found else self.link_to(name, role, content)

    def with_sections(self, text: str) -> list[nodes.Node]:
        """A source with its sections of the appendix linked to the chapters on them."""
        found, at = [], 0
        for match in SECTION.finditer(text):
            chapter = CHAPTERS.get(match[1])
            if chapter not in self.env.found_docs:
                continue
            found.append(nodes.Text(text[at : match.start()]))
            found.append(
                addnodes.pending_xref(
                    "",
                    nodes.inline("", match[0]),
                    refdomain="std",
                    reftype="doc",
                    reftarget=f"/{chapter}",
                    refexplicit=True,
                    refwarn=True,
                    refdoc=self.env.docname,
                )
            )
            at = match.end()
        return [*found, nodes.Text(text[at:])]

    def summary(self, entries: Sequence[Entry]) -> nodes.table:
        """Name, what it does, and source of every function and class."""
        rows = [entry for entry in entries if entry.kind in ("function", "class", "exception")]
        group = nodes.tgroup("", *(nodes.colspec(colwidth=width) for width in (25, 50, 25)), cols=3)
        head = ["name", "what it does", "source"]
        group += nodes.thead(
            "", nodes.row("", *(nodes.entry("", nodes.paragraph("", word)) for word in head))
        )
        body = nodes.tbody()
        for entry in rows:
            cells = [
                [self.link(entry, nodes.literal("", entry.short))],
                self.inline(
                    first_sentence(entry.text), entry.module, entry.short if entry.members else ""
                ),
                self.with_sections(entry.source),
            ]
            body += nodes.row(
                "", *(nodes.entry("", nodes.paragraph("", "", *cell)) for cell in cells)
            )
        group += body
        return nodes.table("", group, classes=["api-summary"])


def library_of(start: Path, package: str) -> Library:
    """The package beside the book or beside a folder that holds it: a staged copy of the book lies
    in the checkout.
    """
    for folder in (start, *start.resolve().parents):
        if (folder / package / "__init__.py").exists():
            return read_library((folder / package).resolve())
    raise ValueError(f"there is no package {package} beside the book")


def configure(app: Sphinx, config: Config) -> None:
    """On "config-inited": a line a parameter where a signature is long; and a plain link
    ``[text](name)`` never means a function, since ours have the names of pages and labels too.
    """
    config.maximum_signature_line_length = ROOM_FOR_SIGNATURE
    config.myst_ref_domains = [name for name in app.registry.domains if name != "py"]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("api", Api)
    app.add_css_file("api.css")
    app.connect("config-inited", configure)
    app.connect("builder-inited", lambda app: read_library.cache_clear())
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
