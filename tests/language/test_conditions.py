"""Conditions. A second, simple implementation of the operators is the reference."""

from __future__ import annotations

import fnmatch
import ipaddress
import time

import pytest
from engine.language.conditions import compile_conditions
from engine.language.findings import (
    MAX_EXPRESSIONS,
    MAX_INSTRUCTIONS,
    Findings,
    TooManyFindingsError,
)
from engine.language.operators import (
    OPERATORS,
    OperandError,
    address_of,
    check_operand,
    compile_operator,
)
from engine.language.yaml_source import Document
from engine.model.event import parse_event
from hypothesis import given, settings
from hypothesis import strategies as st

OPERANDS = {
    "scalar": "x", "scalars": ["x"], "text": "x", "networks": ["10.0.0.0/8"], "number": 5,
}  # fmt: skip
PASSING = {
    "equals": "x", "notEquals": "y", "in": "x", "notIn": "y", "startswith": "x", "endswith": "x",
    "contains": "x", "icontains": "X", "glob": "x", "regex": "x", "cidr": "10.1.2.3",
    "notCidr": "11.0.0.1", "gt": 6, "gte": 5, "lt": 4, "lte": 5, "intersects": ["x"],
}  # fmt: skip
FAILING = {
    "equals": "y", "notEquals": "x", "in": "y", "notIn": "x", "startswith": "y", "endswith": "y",
    "contains": "y", "icontains": "y", "glob": "xy", "regex": "y", "cidr": "11.0.0.1",
    "notCidr": "10.1.2.3", "gt": 5, "gte": 4, "lt": 5, "lte": 6, "intersects": ["y"],
}  # fmt: skip
operators = pytest.mark.parametrize("name", [n for n in OPERATORS if n != "exists"])


def predicate(name, operand):
    return compile_operator(name, operand).holds


def on_operand(name):
    return predicate(name, OPERANDS[OPERATORS[name].operand])


class RecordedFindings(Findings):
    """Also records the arguments of each finding."""

    def __init__(self):
        super().__init__(Document("a.yaml", None))
        self.wrong = []

    def add(self, *arguments, **options):
        super().add(*arguments, **options)
        self.wrong.append(arguments)


def compiled(*data):
    report = RecordedFindings()
    return compile_conditions(list(data), ("c",), report), report.wrong


def truth(data, **fields):
    (condition,), wrong = compiled(data)
    assert not wrong
    return condition.holds(parse_event({"rule": "r", "output_fields": fields}))


@operators
def test_each_operator_is_true_and_false(name):
    assert on_operand(name)(PASSING[name]) is True
    assert on_operand(name)(FAILING[name]) is False


@operators
@pytest.mark.parametrize("value", [None, "", "<NA>", []], ids=repr)
def test_each_operator_is_unknown_for_an_absent_value(name, value):
    assert on_operand(name)(value) is None
    assert truth({"field": "no.such", name: OPERANDS[OPERATORS[name].operand]}) is None


@operators
def test_each_operator_is_unknown_for_a_value_of_another_type(name):
    for value in (True, {}, {"x": 1}, {"x": "x"}):
        assert on_operand(name)(value) is None
    other = "5" if OPERATORS[name].operand == "number" else 5
    assert on_operand(name)(other) is None
    if name != "intersects":
        assert on_operand(name)([other]) is None
    else:
        assert on_operand(name)("x") is None


@operators
def test_for_a_list_one_element_must_pass_or_all_if_the_operator_is_negative(name):
    if name == "intersects":
        return
    test, good, bad = on_operand(name), PASSING[name], FAILING[name]
    negative = OPERATORS[name].negative
    assert test([good, good]) is True
    assert test([good, bad]) is (not negative)
    assert test([bad, bad]) is False
    assert test([good, None]) is (None if negative else True)
    assert test([bad, None]) is (False if negative else None)
    assert test([[bad], [good]]) is (not negative)


def test_exists_is_never_unknown():
    for value in (None, "", "<NA>", []):
        assert predicate("exists", True)(value) is False
        assert predicate("exists", False)(value) is True
    for value in (0, False, {}, " ", "<na>", [None]):
        assert predicate("exists", True)(value) is True
        assert predicate("exists", False)(value) is False


def test_numbers_compare_exactly_beyond_64_bits():
    big = 18446744073709551615
    assert predicate("equals", big)(big) is True
    assert predicate("equals", big)(big - 1) is False
    assert predicate("equals", big)(float(big)) is False
    assert predicate("gt", big)(big + 1) is True
    assert predicate("equals", 1)(1.0) is True
    assert predicate("equals", 1)(True) is None
    assert predicate("in", [1, "a"])(True) is None
    assert predicate("equals", "443")(443) is None


def test_an_operand_list_compares_with_its_elements_of_the_same_type():
    assert predicate("in", [1, "a"])("b") is False
    assert predicate("in", ["a", "b"])(1) is None
    assert predicate("notIn", ["a", 1])(2.0) is True
    assert predicate("in", [True, "a"])(False) is False


def test_cidr_compares_ipv4_and_ipv6_addresses():
    inside = predicate(
        "cidr", ["10.0.0.0/8", "2001:db8::/32", "192.0.2.7", "::ffff:198.51.100.0/120"]
    )
    for text in ("10.255.0.1", "2001:db8::1", "192.0.2.7", "::ffff:10.0.0.1", "198.51.100.9"):
        assert inside(text) is True
    for text in ("11.0.0.1", "2001:db9::1", "192.0.2.8", "::ffff:11.0.0.1"):
        assert inside(text) is False
    for text in (
        "10.0.0",
        "10.0.0.1:80",
        "010.0.0.1",
        "fe80::1%eth0",
        "x",
        "10.0.0.1/8",
        " 10.0.0.1",
    ):
        assert inside(text) is None


ADDRESSES = [
    "10.0.0.1", "::ffff:10.0.0.1", "2001:db8::1", "::", "1:2:3:4:5:6:7:8", "::1.2.3.4", "fe80::1%eth0",
    "64:ff9b::1.2.3.4", "010.1.1.1", "256.1.1.1", "00000::1", "\uff11.1.1.1", "1.1.1.1\0", "\ud800::", ":::",
]  # fmt: skip


@given(
    st.sampled_from(ADDRESSES),
    st.integers(0, 20),
    st.sampled_from(["", *"0159afF:.% /\n"]),
    st.booleans(),
)
def test_an_address_is_read_as_by_ipaddress(address, at, letter, replace):
    text = address[:at] + letter + address[at + replace :]
    try:
        wanted = ipaddress.ip_address(text) if "%" not in text else None
    except ValueError:
        wanted = None
    assert address_of(text) == (getattr(wanted, "ipv4_mapped", None) or wanted)


def test_a_long_list_of_networks_costs_little_for_each_address():
    networks = [f"10.{n >> 8}.{n & 255}.0/24" for n in range(10_000)]
    addresses = ["192.0.2.1", "::1"] * 2_000

    def seconds(operands):
        inside, outside = predicate("cidr", operands), predicate("notCidr", operands)
        started = time.process_time()
        assert inside(addresses) is False
        assert outside(addresses) is True
        return time.process_time() - started

    assert seconds(networks) < 100 * seconds(
        networks[:10]
    )  # 1,000 times if each network is compared
    inside = predicate("cidr", networks)
    assert inside([*addresses, "10.39.15.255"]) is True
    assert inside([*addresses, "10.39.16.0"]) is False


def test_a_hostile_regular_expression_takes_linear_time():
    assert predicate("regex", "(a+)+$")("a" * 100_000 + "!") is False
    assert predicate("glob", "*a" * 30)("a" * 20_000 + "b") is False


@given(
    st.text(alphabet="ab*?[]!^-\\/.\n", max_size=8), st.text(alphabet="ab]/!^-.\\\n", max_size=6)
)
@settings(max_examples=100)
def test_globs_without_brackets_and_backslashes_match_as_in_fnmatch(glob, text):
    if set("[]\\") & set(glob):
        return
    assert predicate("glob", glob)(text) is (fnmatch.fnmatchcase(text, glob) if text else None)


def test_brackets_and_backslashes_in_globs():
    for glob, yes, no in (
        ("[a-c]x", "bx", "dx"), ("[!a]", "b", "a"), ("[^a]", "b", "a"), ("[]a]", "]", "b"),
        ("[", "[", "a"), ("\\*", "*", "a"), ("a\\", "a\\", "a"), ("[a", "[a", "a"),
        ("[[:alpha:]]", "b", "5"), ("[[:digit:]a-c_]x", "_x", "dx"), ("[^[:space:]]", "a", " "),
        ("[[:upper:]-]", "-", "a"), ("[[:foo:]]", ":]", ":"), ("[\\]]", "]", "\\"),
        ("[a\\-z]", "-", "b"), ("[!\\]a]", "b", "]"), ("[\\\\]", "\\", "]"), ("[\\]", "[]", "]"),
    ):  # fmt: skip
        assert predicate("glob", glob)(yes) is True
        assert predicate("glob", glob)(no) is False


def test_a_glob_of_brackets_that_do_not_close_is_read_in_linear_time():
    glob = "[" * 4_999 + "[\\]"
    assert predicate("glob", glob)("[" * 5_000 + "]") is True


WRONG = [
    ("equals", ["a"], "wrong-type"), ("equals", None, "wrong-type"), ("in", "a", "wrong-type"),
    ("in", [], "bad-value"), ("in", [{}], "wrong-type"), ("startswith", 1, "wrong-type"),
    ("gt", "1", "wrong-type"), ("gt", True, "wrong-type"), ("exists", "true", "wrong-type"),
    ("cidr", ["10.0.0.1/8"], "bad-cidr"), ("cidr", ["x"], "bad-cidr"), ("cidr", [5], "bad-cidr"),
    ("cidr", ["fe80::1%eth0"], "bad-cidr"),
    ("regex", "(", "bad-regex"), ("regex", "(?=a)", "bad-regex"), ("regex", "(a)\\1", "bad-regex"),
    ("glob", "[z-a]", "bad-regex"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "operand", "code"), WRONG, ids=str)
def test_an_operand_of_the_wrong_type_is_an_error(name, operand, code):
    with pytest.raises(OperandError) as error:
        predicate(name, operand)
    assert error.value.code == code
    assert compiled({"field": "a", name: operand})[1][0][:2] == (("c", 0, name), code)


def test_the_hint_for_host_bits_is_the_network():
    with pytest.raises(OperandError) as error:
        predicate("cidr", ["10.0.0.1/8"])
    assert error.value.hint.startswith("10.0.0.0/8")


SHAPES = [
    ("text", "wrong-type"), ({"field": "a"}, "missing-key"),
    ({"equals": 1}, "missing-key"), ({"field": "a", "jsonPath": "$.a", "equals": 1}, "bad-value"),
    ({"field": "a", "equals": 1, "in": [1]}, "bad-value"), ({"field": 1, "equals": 1}, "wrong-type"),
    ({"field": "a", "equal": 1}, "unknown-operator"), ({"feild": "a", "equals": 1}, "unknown-key"),
    ({"all": []}, "bad-value"), ({"any": {}}, "wrong-type"), ({"not": []}, "wrong-type"),
    ({"not": {"field": "a", "equals": 1}, "field": "b"}, "unknown-key"),
    ({"jsonPath": "a.b", "equals": 1}, "bad-path"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "code"), SHAPES, ids=str)
def test_a_condition_with_the_wrong_structure_is_reported_once(data, code):
    assert [finding[1] for finding in compiled(data)[1]] == [code]


def test_a_field_name_is_taken_literally():
    assert truth({"field": "proc.aname[2]", "equals": "sh"}, **{"proc.aname[2]": "sh"}) is True
    assert truth({"field": "a b.c", "equals": 1}, **{"a b.c": 1}) is True
    assert truth({"field": "a.b", "exists": True}, a={"b": 1}) is False


LEAVES = {
    None: {"field": "nothing", "equals": 1},
    True: {"field": "one", "equals": 1},
    False: {"field": "one", "equals": 2},
}
leaves = st.sampled_from([None, True, False])
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.tuples(st.just("not"), inner),
        st.tuples(st.sampled_from(["all", "any"]), st.lists(inner, min_size=1, max_size=4)),
    ),
    max_leaves=12,
)


def written(tree):
    if not isinstance(tree, tuple):
        return LEAVES[tree]
    word, inner = tree
    return {word: written(inner) if word == "not" else [written(one) for one in inner]}


def sql(tree):
    """Evaluate the three-valued logic of SQL: try true and false for each unknown (tables of Kleene)."""
    if not isinstance(tree, tuple):
        return tree
    word, inner = tree
    if word == "not":
        return {True: False, False: True, None: None}[sql(inner)]
    order = {False: 0, None: 1, True: 2}
    pick = min if word == "all" else max
    return pick((sql(one) for one in inner), key=order.__getitem__)


@settings(max_examples=100)
@given(trees)
def test_groups_follow_the_three_valued_logic_of_sql(tree):
    assert truth(written(tree), one=1) is sql(tree)


json_values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=6),
        st.sampled_from(["", "<NA>", "x", "10.1.2.3", "::1", 5, 443]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)  # fmt: skip


def expected(name, operand, value):  # noqa: C901 - a table in code
    """Apply an operator to one value or list, in the words of the documentation."""
    if (value in (None, "", "<NA>") and not isinstance(value, bool)) or value == []:
        return None
    if isinstance(value, list) and name != "intersects":
        order = {False: 0, None: 1, True: 2}
        pick = min if name in ("notEquals", "notIn", "notCidr") else max
        return pick((expected(name, operand, one) for one in value), key=order.__getitem__)

    def kind(one):
        if isinstance(one, bool):
            return "boolean"
        if isinstance(one, (int, float)):
            return "number"
        return "text" if isinstance(one, str) else "other"

    def among(one, these):
        same = [w for w in these if kind(w) == kind(one)]
        return any(one == w for w in same) if same else None

    def negated(one):
        return None if one is None else not one

    if name == "intersects":
        if not isinstance(value, list):
            return None
        order = {False: 0, None: 1, True: 2}
        present = [v for v in value if v not in (None, "", "<NA>") and v != []]
        truths = [among(v, operand) for v in present] + [None] * (len(value) - len(present))
        return max(truths, key=order.__getitem__)
    if name in ("equals", "notEquals"):
        truth_value = among(value, [operand])
        return truth_value if name == "equals" else negated(truth_value)
    if name in ("in", "notIn"):
        truth_value = among(value, operand)
        return truth_value if name == "in" else negated(truth_value)
    if name in ("gt", "gte", "lt", "lte"):
        if kind(value) != "number":
            return None
        return {"gt": value > operand, "gte": value >= operand, "lt": value < operand,
                "lte": value <= operand}[name]  # fmt: skip
    if kind(value) != "text":
        return None
    if name in ("cidr", "notCidr"):
        try:
            address = ipaddress.ip_address(value)
        except ValueError:
            return None
        address = getattr(address, "ipv4_mapped", None) or address
        inside = any(address in ipaddress.ip_network(o) for o in operand)
        return inside if name == "cidr" else not inside
    return {
        "startswith": value.startswith(operand) if name == "startswith" else None,
        "endswith": value.endswith(operand) if name == "endswith" else None,
        "contains": operand in value if name == "contains" else None,
        "icontains": operand.lower() in value.lower() if name == "icontains" else None,
        "glob": value == operand, "regex": operand in value,
    }[name]  # fmt: skip


@settings(max_examples=100)
@given(st.sampled_from(sorted(set(OPERATORS) - {"exists"})), json_values)
def test_every_operator_on_every_value_follows_the_reference(name, value):
    operand = OPERANDS[OPERATORS[name].operand]
    assert predicate(name, operand)(value) is expected(name, operand, value)


def test_a_deeply_nested_list_is_compared():
    value = "x"
    for _ in range(100):
        value = [value]
    assert predicate("equals", "x")(value) is True
    assert predicate("notEquals", "x")(value) is False


def test_every_operator_declares_its_operand():
    for name, operator in OPERATORS.items():
        check_operand(name, {**OPERANDS, "bool": True}[operator.operand])


def codes_of_expressions(*operands):
    """Return the codes of the findings about conditions with these regular expressions."""
    report = RecordedFindings()
    data = [{"field": "a", "regex": operand} for operand in operands]
    try:
        compile_conditions(data, ("c",), report)
    except TooManyFindingsError as error:
        return [finding.code for finding in error.entries]
    return [code for _, code, *_ in report.wrong]


@pytest.mark.parametrize(
    "condition",
    [{"regex": r"(?i)[\pL]{150}"}, {"glob": "?" * 10_000}, {"regex": "((a{100}){100}){100}"}],
    ids=["class", "glob", "nested"],
)
def test_an_expression_that_takes_too_much_memory_is_a_bad_regex(condition):
    (name,) = condition
    ((path, code, *_),) = compiled({"field": "a", **condition})[1]
    assert (path, code) == (("c", 0, name), "bad-regex")


def test_the_number_and_size_of_expressions_per_document_are_limited():
    assert codes_of_expressions(*["x"] * MAX_EXPRESSIONS) == []
    assert codes_of_expressions(*["y?" * 900 for _ in range(MAX_INSTRUCTIONS // 2_000)]) == []
    # each of these counts as 25,000 instructions, so later ones are not compiled
    assert codes_of_expressions(*[r"(?i)[\pL]{150}"] * 50) == ["bad-regex"] * 10
    paths = [{"jsonPath": f"$.x{n % 9}", "exists": True} for n in range(MAX_EXPRESSIONS)]
    with pytest.raises(TooManyFindingsError) as raised:
        compile_conditions([{"all": paths}, {"field": "a", "glob": "a*"}], (), RecordedFindings())
    assert [finding.code for finding in raised.value.entries] == ["bad-regex"]


@pytest.mark.parametrize("operator", ["exists", "equals", "notEquals", "notIn", "regex", "gt"])
def test_a_condition_on_a_path_that_takes_too_many_steps_is_unknown(operator):
    """This includes ``exists: false``, because the value is not known to be absent."""
    operand = {"exists": False, "notIn": ["x"], "gt": 1}.get(operator, "x")
    (condition,), wrong = compiled({"jsonPath": "$..*[?(@..*[?(@..x==1)])]", operator: operand})
    value = {"b": 1}
    for _ in range(80):
        value = {"a": value}
    assert (condition.holds(parse_event({"rule": "r", "output_fields": value})), wrong) == (
        None,
        [],
    )


@pytest.mark.parametrize(
    ("path", "operator", "says"),
    [
        ("$.hostname[0]", {"exists": False}, "always holds"),
        ("$.Rule", {"equals": "x"}, "no key `Rule`"),
        ("$.output_field['a.b']", {"equals": "x"}, "no key"),
        ("$.rule.name", {"equals": "x"}, "never holds"),
        ("$.tags.name", {"equals": "x"}, "never holds"),
        ("$.rule", {"exists": True}, "always holds"),
        ("$.source", {"exists": False}, "never holds"),
        ("$.priority", {"equals": "warning"}, "never holds"),
        ("$.priority", {"in": ["crit", "HIGH"]}, "never holds"),
    ],
)
def test_a_condition_that_is_the_same_for_every_alert_is_a_warning(path, operator, says):
    ((where, code, what, *_),) = compiled({"jsonPath": path, **operator})[1]
    assert (where, code) == (("c", 0, "jsonPath"), "same-everywhere")
    assert says in what


@pytest.mark.parametrize(
    ("path", "operator"),
    [
        ("$.output_fields['proc.name']", {"in": ["curl"]}), ("$.tags[0]", {"equals": "x"}),
        ("$.output_fields['json.value'].a.b", {"equals": "x"}), ("$.hostname", {"exists": True}),
        ("$.priority", {"in": ["crit", "Critical"]}), ("$.uuid", {"exists": True}),
        ("$.output_fields.cluster", {"equals": "x"}), ("$..name", {"exists": True}),
        ("$", {"exists": True}),
    ],
)  # fmt: skip
def test_a_condition_that_depends_on_the_alert_is_not_a_warning(path, operator):
    assert compiled({"jsonPath": path, **operator})[1] == []
