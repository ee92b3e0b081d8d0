"""The environment that chat templates run in: jinja2's sandbox, in which loops, calls and operators have a budget."""

import functools
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn, TypeVar

import jinja2
from jinja2 import ext, nodes, parser, runtime, sandbox
from jinja2.visitor import NodeTransformer

from aot.runtime.prompting import budget

T = TypeVar("T")

_NODE = 30  # units for each node of a body, in one step through it
_COMPARING = {"in", "eq", "equalto", "ne", "lt", "le", "gt", "ge", "==", "!=", "<", "<=", ">", ">=", "lessthan"}

FAULTS = (
    budget.ExhaustedError,
    jinja2.exceptions.SecurityError,
    ArithmeticError,
    MemoryError,
    RecursionError,
)
"""What is never the fault of a conversation."""


@functools.cache
def template_environment() -> jinja2.Environment:
    """The environment with the names that `transformers` gives to templates."""
    made = _Bounded(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, ext.loopcontrols], optimized=False)
    made.filters["tojson"] = _to_json
    made.filters = {name: _metered(name, function) for name, function in made.filters.items()}
    made.filters |= {_SPENT: budget.spent, _WEIGHED: _weighed, _MEASURED: _measured}
    made.finalize = _finalized
    made.globals["raise_exception"] = _raise_exception
    made.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    del made.globals["lipsum"]
    return made


# Filters that the transformation below puts in; no template can spell their names.
_SPENT, _WEIGHED, _MEASURED = " spent", " weighed", " measured"


def _weighed(value: T) -> T:
    budget.weigh(value)
    return value


def _measured(value: T) -> T:
    budget.spend(budget.weight(value))
    return value


@jinja2.pass_context
def _finalized(_: object, value: T) -> T:  # with a context, so that nothing is printed when a template is compiled
    return _weighed(value)


def _metered(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, with what it takes spent before."""
    first = 1 if getattr(function, "jinja_pass_arg", None) is not None else 0

    @functools.wraps(function)
    def filter(*args: Any, **kwargs: Any) -> object:
        value, others = budget.list_iterator(args[first]), (*args[first + 1 :], *kwargs.values())
        budget.spend_for(name, value, others)
        return _measured(function(*args[:first], value, *args[first + 1 :], **kwargs))

    return filter


class _Metering(NodeTransformer):
    """Makes loops, macros and operators spend."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        step = self._step(node)
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(step, lineno=node.lineno))
        if node.test is not None:
            node.test = nodes.And(step, node.test, lineno=node.lineno)
        return node

    def visit_Macro(self, node: nodes.Macro | nodes.CallBlock) -> nodes.Node:
        step = self._step(node, budget.CALL)
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(step, lineno=node.lineno))
        return node

    visit_CallBlock = visit_Macro

    def visit_Concat(self, node: nodes.Concat) -> nodes.Concat:
        self.generic_visit(node)
        node.nodes = [_through(_WEIGHED, each) for each in node.nodes]
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        self.generic_visit(node)
        node.expr = _through(_WEIGHED, node.expr)
        for operand in node.ops:
            operand.expr = _through(_WEIGHED, operand.expr)
        return node

    def visit_Test(self, node: nodes.Test) -> nodes.Test:
        self.generic_visit(node)
        if node.name in _COMPARING:
            node.node = _through(_WEIGHED, node.node)
            node.args = [_through(_WEIGHED, each) for each in node.args]
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        return _through(_MEASURED, node) if isinstance(node.arg, nodes.Slice) else node

    @staticmethod
    def _step(node: nodes.Node, more: int = 0) -> nodes.Filter:
        """What spends for one step through a body."""
        inside = list(node.find_all(nodes.Node))
        constants = sum(len(each.data) for each in inside if isinstance(each, nodes.TemplateData))
        return _through(_SPENT, nodes.Const(more + _NODE * (1 + len(inside)) + constants, lineno=node.lineno))


def _through(name: str, node: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class _Bounded(sandbox.ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _Metering().visit(tree)
        tree.set_environment(self)
        return tree

    def call_binop(self, context: runtime.Context, operator: str, left: Any, right: Any) -> object:
        budget.spend_for_operator(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: runtime.Context, function: Any, /, *args: Any, **kwargs: Any) -> object:
        args = tuple(map(budget.list_iterator, args))
        given = (*args, *kwargs.values())
        owner = getattr(function, "__self__", None)
        if isinstance(owner, str):
            budget.spend_for(function.__name__, owner, given)
        elif isinstance(owner, list | tuple):
            budget.weigh(owner)
        budget.spend(budget.CALL + (sum(map(budget.weight, given)) if isinstance(function, type) else 0))
        return _measured(super().call(context, function, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        pattern: str = value.__self__

        def formatted(*args: Any, **kwargs: Any) -> str:
            budget.spend_for("format", pattern, (*args, *kwargs.values()))
            return wrapped(*args, **kwargs)

        return formatted


class _Generation(ext.Extension):
    """`{% generation %}` … `{% endgeneration %}`, which marks answers for training, as a plain block."""

    tags = {"generation"}  # noqa: RUF012, jinja2 declares it so

    def parse(self, parser: parser.Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    # jinja2's own filter escapes HTML
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
