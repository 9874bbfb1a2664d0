"""The plugins: found, loaded in isolation, checked and asked. The only module that calls pluggy."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterable, Mapping
from time import perf_counter
from typing import Any

import pluggy
from attrs import define

from routilux_core import hookspecs
from routilux_core._registry import strategies as strategies_module
from routilux_core._registry.entry_points import (
    DISABLE,
    ENABLE,
    PLUGINS,
    Declared,
    Refused,
    declared,
    disabled_plugins,
    enabled_plugins,
    in_one_line,
    load_target,
)
from routilux_core._text.log import log
from routilux_core._text.trace import trace
from routilux_core.error_handling import Decision, ErrorStrategy, Failure, by_policy
from routilux_core.errors import (
    ConfigurationError,
    RoutiluxError,
    StrategyError,
    UnknownNameError,
    UnknownStrategyError,
    brief,
    is_interrupt,
)
from routilux_core.hookspecs import PROJECT, Activation, StrategyRequest, hookimpl
from routilux_core.strategy import ExecutionStrategy

PREFIX = "routilux_"
MAKES = "routilux_make_strategy"
HOOKS = tuple(name for name in vars(hookspecs) if name.startswith(PREFIX))
RESULTS: dict[str, tuple[type, tuple[type[Exception], ...]]] = {  # and the exceptions that reach the caller
    MAKES: (ExecutionStrategy, (RoutiluxError,)),
    "routilux_handle_error": (Decision, ()),
    "routilux_admit": (Decision, ()),
}
TRACKING = tuple(name for name in HOOKS if name not in RESULTS)


@define
class Candidate:
    """A plugin that an installed distribution declares, and what became of it.

    `state` is ok, broken, disabled or clash; `why` is one line where it is not ok.
    """

    declared: Declared
    state: str = "ok"
    why: str = ""
    hooks: tuple[str, ...] = ()
    active: tuple[str, ...] = ()  # those of its hooks that act in every flow
    kind: type | None = None  # a class that only decides, which is made when a flow names it
    made: Any = None

    def refuse(self, state: str, why: str) -> None:
        """Note why this plugin is left out."""
        self.state, self.why = state, why


class BuiltIn:
    """What the core does itself, as the last implementation of its own hooks."""

    @hookimpl(trylast=True)
    def routilux_make_strategy(self, request: StrategyRequest) -> ExecutionStrategy:
        """Look the name up among the installed strategies."""
        return strategies_module.make_strategy(request.name, request.max_workers, dict(request.options))

    @hookimpl(trylast=True)
    def routilux_handle_error(self, failure: Failure) -> Decision:
        """Decide as the policy of the routine, else of the flow, says."""
        return by_policy(failure)


class Manager(pluggy.PluginManager):
    """Leaves out the hooks of a plugin that it is told to leave out, while it registers that."""

    leaves_out: frozenset[str] = frozenset()

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        """Return what pluggy does, or None for what is no implementation, or is left out."""
        options: Any = super().parse_hookimpl_opts(plugin, name)
        left_out = options is not None and (options.get("specname") or name) in self.leaves_out
        return None if left_out else options


class PluginSet:
    """The plugins of the process, or these together with those of one flow, which are asked first."""

    def __init__(self) -> None:
        self.manager = Manager(PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.manager.register(BuiltIn(), "routilux_core")
        self.decides = False  # whether any plugin handles errors
        self.admits = False  # whether any plugin is to be asked before each call
        # By tracking hook, in the order of the calls: the plugin's name, its function, and the names of its arguments.
        self.listening: dict[str, tuple[tuple[str, Callable[..., Any], tuple[str, ...]], ...]] = {}
        self.plugins: dict[str, Any] = {}
        self.only_tell: set[str] = set()  # the plugins that nobody has named, which decide nothing
        self.candidates: list[Candidate] = []

    def add(self, plugin: Any, name: str, *, decides: bool = True) -> tuple[str, ...]:
        """Register a plugin, and return the hooks that it implements; one that can't work is `Refused`.

        Unless it `decides`, only its hooks for tracking are used: what it would change was not asked for.
        """
        try:
            found = _implementations(self.manager, plugin)
            self.manager.leaves_out = frozenset() if decides else frozenset(RESULTS)
            self.manager.register(plugin, name)
        except Refused:
            raise
        except Exception as error:
            if self.manager.has_plugin(name):
                self.manager.unregister(name=name)
            raise Refused(in_one_line(error)) from error
        finally:
            self.manager.leaves_out = frozenset()
        self.plugins[name] = plugin
        if not decides:
            self.only_tell.add(name)
        hooks = _in_order(found)
        for hook in hooks:
            for each in getattr(self.manager.hook, hook).get_hookimpls():
                if each.plugin is plugin:
                    _guard(each, hook)
        self._look_again()
        return hooks

    def _look_again(self) -> None:
        hooks = self.manager.hook
        self.decides = len(hooks.routilux_handle_error.get_hookimpls()) > 1
        self.admits = bool(hooks.routilux_admit.get_hookimpls())
        for name in TRACKING:
            found = [(each.plugin_name, each.function, each.argnames) for each in getattr(hooks, name).get_hookimpls()]
            if found:
                self.listening[name] = tuple(reversed(found))

    def admit(self, activation: Activation) -> Decision | None:
        """Return what to do instead of a call, None if it is to be made: the first plugin that objects decides."""
        try:
            decision = self.manager.hook.routilux_admit(activation=activation)
            return None if decision is None else Decision.checked(decision)
        except BaseException as error:
            if is_interrupt(error):
                raise
            log.exception("routilux_admit failed; routine %r is called", activation.routine_id)
            return None

    def decide(self, failure: Failure) -> Decision:
        """Return what to do about an exception: the first plugin that knows decides, else the policy."""
        try:
            decision = Decision.checked(self.manager.hook.routilux_handle_error(failure=failure))
        except BaseException as error:
            if is_interrupt(error):
                raise
            log.exception("routilux_handle_error failed; the policy decides about %s", _name(failure))
        else:
            if _is_usable(decision, failure):
                return decision
        return by_policy(failure)


def make_strategy(plugins: PluginSet, request: StrategyRequest) -> ExecutionStrategy:
    """Return what the first plugin that knows the name makes of it; the installed strategies come last."""
    hook = plugins.manager.hook.routilux_make_strategy
    if any(each.wrapper or each.hookwrapper for each in hook.get_hookimpls()):
        made = hook(request=request)
    else:
        offers = offered(plugins, request)
        made = offers[0][1] if offers else _installed_strategy(request)
        _warn_of_rivals(request.name, [who for who, _ in offers])
    if not isinstance(made, ExecutionStrategy):
        raise StrategyError(
            f"a plugin's wrapper made {made!r} of strategy {request.name!r}: it is no ExecutionStrategy"
        )
    strategies_module.check_object(made)
    return made


def _installed_strategy(request: StrategyRequest) -> ExecutionStrategy:
    try:
        return strategies_module.make_strategy(request.name, request.max_workers, dict(request.options))
    except UnknownStrategyError as error:
        asleep = [each for each in installed().candidates if MAKES in each.hooks and MAKES not in each.active]
        if asleep:
            error.add_note(
                f"What may make it is installed, and acts only where it is named, in Flow(plugins=[...]) or {ENABLE}: "
                f"{', '.join(repr(each.declared.name) for each in asleep)}"
            )
        raise


def offered(plugins: PluginSet, request: StrategyRequest) -> list[tuple[str, ExecutionStrategy]]:
    """Return what each plugin makes of a name, but for those that know nothing of it: the first is used."""
    found: list[tuple[str, ExecutionStrategy]] = []
    for each in reversed(plugins.manager.hook.routilux_make_strategy.get_hookimpls()):
        if isinstance(each.plugin, BuiltIn):
            continue
        try:
            made: Any = each.function(*([request] if each.argnames else []))
        except RoutiluxError:
            if not found:  # the name is its own, and something is wrong with it
                raise
            continue
        if made is not None:
            found.append((f"plugin {each.plugin_name!r}", made))
    return found


_warned: set[tuple[str, ...]] = set()


def _warn_of_rivals(name: str, makers: list[str]) -> None:
    """Name all who make a strategy of one name, once in a process: else chance would seem to say which one runs."""
    if not makers:
        return
    makers = makers + [f"the installed strategy of {each}" for each in strategies_module.claims().get(name, [])]
    key = (name, *makers)
    if len(makers) > 1 and key not in _warned:
        _warned.add(key)
        log.warning("strategy %r is made by %s: the first of them is used", name, " and by ".join(makers))


def _is_usable(decision: Decision, failure: Failure) -> bool:
    twice = decision.strategy is ErrorStrategy.RETRY and failure.emitted
    if twice:
        log.warning(
            "routilux_handle_error: RETRY is refused, because %s had emitted already; the policy decides",
            _name(failure),
        )
    return not twice


# -- finding and loading

_lock = threading.RLock()  # a plugin may run a flow while it is imported
_of_process: list[PluginSet] = []


def installed() -> PluginSet:
    """Return the plugins of this process, loading the installed ones at the first call."""
    with _lock:
        if not _of_process:
            _of_process.append(PluginSet())
            scan(_of_process[0])
        return _of_process[0]


Own = tuple[str | None, Any]  # a plugin of one flow: the name under which it is installed, where it was given by that


def with_own(own: Iterable[Own]) -> PluginSet:
    """Return the plugins of this process together with those of one flow."""
    own = tuple(own)
    return _with_own(_copy(installed(), own), own) if own else installed()


def checked(own: Iterable[Any]) -> tuple[Own, ...]:
    """Return the plugins of one flow, made where they were classes or names; what can't work is refused."""
    given: list[Own] = []
    for pair in (pair for each in own for pair in _given(each)):
        if not any(pair[1] is other for _, other in given):
            given.append(pair)
    made = _with_own(PluginSet(), given)
    return tuple(zip((name for name, _ in given), made.plugins.values(), strict=True))


def _given(each: Any) -> Iterable[Own]:
    """Yield what one item of `plugins=` stands for: a name, names with their options, or a plugin itself."""
    if isinstance(each, str):
        yield each, _installed(each, {})
    elif isinstance(each, Mapping):
        for name, options in each.items():
            yield name, _installed(name, options)
    else:
        yield None, each


def _installed(name: Any, options: Any) -> Any:
    """Return the installed plugin of a name: the one of the process, or where it has options one made for this."""
    candidates = {each.declared.name: each for each in installed().candidates}
    if name not in candidates:
        raise UnknownNameError("installed plugin", name, candidates, "plugins=: `routilux plugins` lists them")
    found = candidates[name]
    if found.state not in ("ok", "broken") or (found.state == "broken" and not options):
        raise ConfigurationError(f"plugins=: plugin {name!r} of {found.declared} can't be used: {found.why}")
    if not isinstance(options, Mapping):
        raise ConfigurationError(f"plugins=: the options of plugin {name!r} are a mapping, not {brief(options)}")
    try:
        if not options:
            return _made(found)
        kind = load_target(found.declared.target)
        if not isinstance(kind, type):
            raise Refused("it is no class, so it takes no options")
        return _instance(functools.partial(kind, **options), kind.__qualname__)
    except Refused as refusal:
        raise ConfigurationError(f"plugins=: plugin {name!r} of {found.declared}: {refusal}") from refusal


def _made(candidate: Candidate) -> Any:
    """Return the plugin of the process, which all flows share that name it without options."""
    with _lock:
        if candidate.made is None and candidate.kind is not None:
            candidate.made = _instance(candidate.kind, candidate.kind.__qualname__)
        return candidate.made


def scan(plugins: PluginSet, *, quiet: bool = False) -> None:
    """Load every installed plugin that is not disabled; unless `quiet`, a warning names what is left out."""
    began = perf_counter()
    disabled, enabled = disabled_plugins(), enabled_plugins()
    if "*" not in disabled or quiet:
        plugins.candidates = _declared()
    _mark(plugins.candidates, disabled)
    for each in reversed(plugins.candidates):  # the last that is registered is the first that is asked
        if each.state == "ok":
            _load(plugins, each, enabled)
    for each in plugins.candidates:
        if each.state == "ok" and not quiet:
            _warn_of_unknown(plugins.manager, each.declared.name)
        if each.state not in ("ok", "disabled") and not quiet:
            log.warning("plugin %r of %s is left out: %s", each.declared.name, each.declared, each.why)
    missing = enabled - {"*"} - {each.declared.name for each in plugins.candidates}
    if missing and not quiet:
        log.warning("%s names plugins that are not installed: %s", ENABLE, ", ".join(map(repr, sorted(missing))))
    trace("%d of %d plugins loaded in %.1f ms", len(plugins.plugins), len(plugins.candidates), 1e3 * _since(began))


def _declared() -> list[Candidate]:
    try:
        return [Candidate(each) for each in declared(PLUGINS)]
    except Exception as error:  # a finder of distributions that is itself broken
        log.warning("the installed plugins can't be listed, and none is used: %s", in_one_line(error))
        return []


def _mark(candidates: list[Candidate], disabled: set[str]) -> None:
    """Note which are not to be loaded: the disabled ones, and those whose name two distributions claim."""
    for each in candidates:
        name = each.declared.name
        rivals = [other.declared for other in candidates if other.declared.name == name]
        if name in disabled or "*" in disabled:
            each.refuse("disabled", f"{DISABLE} names it")
        elif len(rivals) > 1:
            each.refuse("clash", f"the name is claimed by {' and by '.join(map(str, rivals))}; uninstall one of them")


def _load(plugins: PluginSet, candidate: Candidate, enabled: set[str]) -> None:
    began = perf_counter()
    name, target = candidate.declared.name, candidate.declared.target
    decides = name in enabled or "*" in enabled
    try:
        plugin = load_target(target)
        if isinstance(plugin, type) and not decides and _only_decides(plugins.manager, plugin):
            candidate.kind, candidate.hooks = plugin, _in_order(_implementations(plugins.manager, plugin))
            return
        if isinstance(plugin, type):
            plugin = _instance(plugin, plugin.__qualname__)
        candidate.hooks, candidate.made = plugins.add(plugin, name, decides=decides), plugin
        candidate.active = tuple(hook for hook in candidate.hooks if decides or hook in TRACKING)
    except Refused as refusal:
        candidate.refuse("broken", str(refusal))
    trace("%r from %s (%s) took %.1f ms", name, target, candidate.declared, 1e3 * _since(began))


def _instance(make: Callable[[], Any], what: str) -> Any:
    """Return an instance of a plugin that is a class."""
    try:
        return make()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise Refused(f"{what}() raised: {in_one_line(error)}") from error


def _with_own(plugins: PluginSet, own: Iterable[Own]) -> PluginSet:
    for installed_as, each in own:
        if any(each is other for other in plugins.plugins.values()):
            continue
        kind = each if isinstance(each, type) else type(each)
        name = installed_as or str(getattr(each, "__name__", kind.__qualname__))
        while name in plugins.plugins:
            name += "'"
        try:
            plugin = _instance(each, each.__qualname__) if isinstance(each, type) else each
            plugins.add(plugin, name)
        except Refused as refusal:
            raise ConfigurationError(f"plugins=: {each!r} can't be a plugin: {refusal}") from refusal
    return plugins


def _copy(plugins: PluginSet, own: tuple[Own, ...]) -> PluginSet:
    """Return the plugins of the process but for those that the flow has named itself, or was given."""
    copied = PluginSet()
    named = {name for name, _ in own}
    for name, plugin in plugins.plugins.items():
        if name not in named and not any(plugin is each for _, each in own):
            copied.add(plugin, name, decides=name not in plugins.only_tell)
    return copied


# -- checking


def _implementations(manager: pluggy.PluginManager, plugin: Any) -> set[str]:
    """Return the names of the hooks that a plugin implements, known or not; what can't work is `Refused`."""
    found = set()
    for name in dir(plugin):
        options: Any = manager.parse_hookimpl_opts(plugin, name)
        method = inspect.getattr_static(plugin, name, None) if options is None else getattr(plugin, name)
        if options is None:
            if name in HOOKS and callable(method):
                raise Refused(f"{name} is not marked with @hookimpl, so it would never be called")
            continue
        name = options.get("specname") or name
        found.add(name)
        if inspect.iscoroutinefunction(method):
            raise Refused(f"{name} is an `async def`, which nobody awaits")
        if name in TRACKING and (options.get("wrapper") or options.get("hookwrapper")):
            raise Refused(f"{name} is a wrapper: tracking hooks have none, so that no plugin can silence another")
    if not found & set(HOOKS):
        raise Refused(f"{_described(plugin)} implements none of the hooks (there are: {', '.join(HOOKS)})")
    return found


def _only_decides(manager: pluggy.PluginManager, kind: type) -> bool:
    """Whether a class has hooks, and none of them for tracking: nothing of it is used before somebody names it."""
    marked: dict[str, Any] = {name: manager.parse_hookimpl_opts(kind, name) for name in dir(kind)}
    found = {options.get("specname") or name for name, options in marked.items() if options is not None}
    return not found.isdisjoint(RESULTS) and found.isdisjoint(TRACKING)


def _in_order(hooks: set[str]) -> tuple[str, ...]:
    return tuple(hook for hook in HOOKS if hook in hooks)


def _warn_of_unknown(manager: pluggy.PluginManager, name: str) -> None:
    plugin = manager.get_plugin(name)
    for caller in manager.get_hookcallers(plugin) or ():
        mine = [each for each in caller.get_hookimpls() if each.plugin is plugin and not each.optionalhook]
        if mine and not caller.has_spec():
            log.warning("plugin %r: this routilux-core has no hook %s, so that is never called", name, caller.name)


def _described(plugin: Any) -> str:
    kind = type(plugin).__name__
    return f"{kind} {plugin.__name__!r}" if hasattr(plugin, "__name__") else f"an object of type {kind!r}"


def _guard(implementation: pluggy.HookImpl, hook: str) -> None:
    """Let an exception, or a result of a wrong kind, count as None: a pluggy call would end there for all.

    The function is put round in place, because what pluggy found out about its arguments has to stay.
    """
    if hook in TRACKING or implementation.wrapper or implementation.hookwrapper:
        return
    kind, passed = RESULTS[hook]
    guarded = _guarded(implementation.function, kind, passed, f"plugin {implementation.plugin_name!r}, {hook}")
    implementation.function = guarded  # type: ignore[misc]


def _guarded(
    function: Callable[..., Any], kind: type, passed: tuple[type[Exception], ...], what: str
) -> Callable[..., Any]:
    @functools.wraps(function)
    def guarded(*args: Any) -> Any:
        try:
            result = function(*args)
        except passed:
            raise
        except BaseException as error:
            if is_interrupt(error):
                raise
            log.warning("%s: raised %s; this counts as None", what, in_one_line(error), exc_info=True)
            return None
        trace("%s -> %s", what, brief(result))
        if result is None or isinstance(result, kind):
            return result
        log.warning("%s: returned %s, no %s; this counts as None", what, brief(result), kind.__name__)
        return None

    return guarded


def _name(failure: Failure) -> str:
    return f"routine {failure.routine_id!r}, slot {failure.slot!r} of job {failure.job_id}"


def _since(began: float) -> float:
    return perf_counter() - began
