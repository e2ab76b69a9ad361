#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::check as check_rules;
use crate::schema::Schema;

/// A kind with one rule at `spec`.
fn schema(rule: &Value) -> Schema {
    let item = json!({"type": "object", "properties": {
        "type": {"type": "string"}, "status": {"type": "string"},
    }});
    let schema = json!({"type": "object", "properties": {
        "metadata": {"type": "object"},
        "spec": {
            "type": "object",
            "x-kubernetes-validations": [rule],
            "properties": {
                "n": {"type": "integer"}, "m": {"type": "integer"}, "f": {"type": "number"},
                "s": {"type": "string"}, "t": {"type": "string"},
                "a-b": {"type": "string"}, "namespace": {"type": "string"},
                "list": {"type": "array", "items": {"type": "integer"}},
                "from": {"type": "string", "format": "date-time"},
                "to": {"type": "string", "format": "date-time"},
                "conditions": {"type": "array", "items": item, "x-kubernetes-list-type": "map",
                               "x-kubernetes-list-map-keys": ["type"]},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "port": {"x-kubernetes-int-or-string": true},
            },
        },
    }});
    Schema::parse(&schema, "test").unwrap()
}

#[track_caller]
fn check(rule: &str, spec: Value, expected: bool) {
    let object = json!({"spec": spec});
    let causes = check_rules(&schema(&json!({"rule": rule})), &object, None);
    assert_eq!(
        causes.is_empty(),
        expected,
        "{rule} on {object}: {causes:?}"
    );
}

#[track_caller]
fn check_update(rule: Value, old: Option<Value>, new: Value, expected: bool) {
    let old = old.map(|spec| json!({"spec": spec}));
    let causes = check_rules(&schema(&rule), &json!({"spec": new}), old.as_ref());
    assert_eq!(causes.is_empty(), expected, "{rule}: {causes:?}");
}

#[test]
fn values_have_the_types_of_the_schema() {
    check("self.n + 1 == 3", json!({"n": 2}), true);
    check("self.n - 3 < 0", json!({"n": 2}), true);
    check("self.f == 2.0", json!({"f": 2}), true);
    check(
        "type(self.port) == int || self.port.endsWith('%')",
        json!({"port": "5%"}),
        true,
    );
    check("type(self.port) == int", json!({"port": 5}), true);
    check(
        "self.from < self.to",
        json!({"from": "2026-01-01T00:00:00Z", "to": "2026-01-01T00:00:00.5Z"}),
        true,
    );
    check(
        "timestamp(self.from) < timestamp(self.to)",
        json!({"from": "2026-01-01T01:00:00+01:00", "to": "2026-01-01T00:00:01Z"}),
        true,
    );
    check("size(self.s) == 2", json!({"s": "äö"}), true);
    check("self.list == [1, 2]", json!({"list": [1, 2]}), true);
    check(
        "self.list.sum() == 3 && self.list.isSorted()",
        json!({"list": [1, 2]}),
        true,
    );
    check(
        "sets.contains(self.list, [2])",
        json!({"list": [1, 2]}),
        true,
    );
}

#[test]
fn presence_and_optionals() {
    check("!has(self.n) || self.n > 0", json!({}), true);
    check("has(self.n) && self.n > 5", json!({"n": 2}), false);
    check("self.?n.orValue(7) == 7", json!({}), true);
    check("self.?n.hasValue()", json!({"n": 1}), true);
    check("self.missing == 1", json!({}), false);
}

#[test]
fn names_that_are_no_identifiers_are_escaped() {
    check("self.a__dash__b == 'x'", json!({"a-b": "x"}), true);
    check("self.__namespace__ == 'x'", json!({"namespace": "x"}), true);
    check(
        "self.labels['a-b'] == 'x'",
        json!({"labels": {"a-b": "x"}}),
        true,
    );
    check(
        "self.labels.all(k, k.startsWith('a'))",
        json!({"labels": {"a": "", "b": ""}}),
        false,
    );
}

#[test]
fn strings_and_formats() {
    check("self.s.matches('^[a-z]+$')", json!({"s": "abc"}), true);
    check("self.s.matches('^[a-z]+$')", json!({"s": "abc1"}), false);
    check("self.s.find('[0-9]+') == '12'", json!({"s": "a12b3"}), true);
    check("self.s.split('/').size() == 2", json!({"s": "a/b"}), true);
    check(
        "!format.dns1123Subdomain().validate(self.s).hasValue()",
        json!({"s": "a.b"}),
        true,
    );
    check(
        "!format.dns1123Subdomain().validate(self.s).hasValue()",
        json!({"s": "a_b"}),
        false,
    );
    check(
        "!format.named('uuid').value().validate(self.s).hasValue()",
        json!({"s": "x"}),
        false,
    );
    check("self.s.lowerAscii() == 'abc'", json!({"s": "ABC"}), true);
}

#[test]
fn transitions() {
    let immutable = json!({"rule": "self == oldSelf"});
    check_update(immutable.clone(), None, json!({"n": 1}), true);
    check_update(
        immutable.clone(),
        Some(json!({"n": 1})),
        json!({"n": 1}),
        true,
    );
    check_update(immutable, Some(json!({"n": 1})), json!({"n": 2}), false);
    let frozen = json!({"rule":
        "oldSelf.conditions.exists(x, x.type == 'Failed' && x.status == 'True') ? self == oldSelf : true"});
    let failed = json!({"conditions": [{"type": "Failed", "status": "True"}]});
    let other = json!({"conditions": [{"type": "Failed", "status": "False"}]});
    check_update(frozen.clone(), Some(other.clone()), failed.clone(), true);
    check_update(frozen, Some(failed), other, false);
    let once = json!({"optionalOldSelf": true,
        "rule": "self.s == self.t || oldSelf.hasValue() && oldSelf.t.value() == self.t"});
    check_update(once.clone(), None, json!({"s": "a", "t": "a"}), true);
    check_update(once.clone(), None, json!({"s": "a", "t": "b"}), false);
    check_update(
        once.clone(),
        Some(json!({"s": "a", "t": "b"})),
        json!({"s": "c", "t": "b"}),
        true,
    );
    check_update(
        once,
        Some(json!({"s": "a", "t": "b"})),
        json!({"s": "a", "t": "c"}),
        false,
    );
}

#[test]
fn what_did_not_change_is_not_checked_again() {
    let rule = json!({"rule": "self.n > 5"});
    check_update(rule.clone(), Some(json!({"n": 1})), json!({"n": 1}), true);
    check_update(rule, Some(json!({"n": 1})), json!({"n": 2}), false);
}

#[test]
fn messages() {
    let told = |rule: Value, expected: &str| {
        let causes = check_rules(&schema(&rule), &json!({"spec": {"n": 3}}), None);
        assert_eq!(
            format!("{}: {}", causes[0].field, causes[0].message),
            expected
        );
    };
    told(
        json!({"rule": "self.n > 5"}),
        "spec: Invalid value: \"object\": failed rule: self.n > 5",
    );
    told(
        json!({"rule": "self.n > 5", "message": "too small"}),
        "spec: Invalid value: \"object\": too small",
    );
    told(
        json!({"rule": "self.n > 5", "messageExpression": "'n is ' + string(self.n)"}),
        "spec: Invalid value: \"object\": n is 3",
    );
    told(
        json!({"rule": "self.n > 5", "message": "no", "reason": "FieldValueForbidden", "fieldPath": ".n"}),
        "spec.n: Forbidden: no",
    );
}

#[test]
fn malformed_rules_are_refused_when_read() {
    let refused = |rule: Value| {
        let schema = json!({"type": "object", "x-kubernetes-validations": [rule]});
        Schema::parse(&schema, "s").unwrap_err().to_string()
    };
    assert!(
        refused(json!({"rule": "self.n >"})).starts_with("s.x-kubernetes-validations[0].rule: ")
    );
    assert!(refused(json!({})).contains("required value"));
    assert!(refused(json!({"rule": "true", "reason": "Because"})).contains("Because"));
    assert!(refused(json!({"rule": "true", "optionalOldSelf": true})).contains("oldSelf"));
    assert!(refused(json!({"rule": "1 + ".repeat(3000)})).contains("longer than"));
    let deep = format!("{}true{}", "(".repeat(1000), ")".repeat(1000));
    // Either is fine, as long as it is an answer.
    let schema = json!({"type": "object", "x-kubernetes-validations": [{"rule": deep}]});
    drop(Schema::parse(&schema, "s"));
    let chain = format!("true{}", " && self.n == 1".repeat(500));
    let schema = json!({"type": "object", "x-kubernetes-validations": [{"rule": chain}]});
    drop(Schema::parse(&schema, "s"));
}

#[test]
fn an_evaluation_that_would_take_too_long_is_not_begun() {
    let rule = "self.list.all(a, self.list.all(b, self.list.all(c, a + b + c >= 0)))";
    let small: Vec<i64> = (0..50).collect();
    check(rule, json!({"list": small}), true);
    let large: Vec<i64> = (0..1000).collect();
    let causes = check_rules(
        &schema(&json!({"rule": rule})),
        &json!({"spec": {"list": large}}),
        None,
    );
    assert!(causes[0].message.contains("cost budget"), "{causes:?}");
}

#[test]
fn the_types_that_kubernetes_adds() {
    for rule in [
        "quantity('1Gi').isGreaterThan(quantity('1000Mi'))",
        "quantity('500m').add(quantity('0.5')) == quantity('1')",
        "quantity('3').sub(1).asInteger() == 2 && quantity('-1').sign() == -1",
        "quantity('2Ki').compareTo(quantity('2048')) == 0 && !quantity('1m').isInteger()",
        "isQuantity('1.5Gi') && !isQuantity('1.5X')",
        "quantity('1500m').asApproximateFloat() == 1.5",
        "url('https://example.com:8443/a%20b?x=1&x=2').getHost() == 'example.com:8443'",
        "url('https://example.com:8443/a').getHostname() == 'example.com'",
        "url('https://example.com:8443/a').getPort() == '8443'",
        "url('https://example.com/a%20b').getEscapedPath() == '/a%20b'",
        "url('https://example.com/?x=1&x=2').getQuery()['x'] == ['1', '2']",
        "url('/path').getScheme() == '' && url('/path').getHost() == ''",
        "isURL('https://[::1]:80/') && isURL('/a') && !isURL('../a')",
        "ip('192.168.0.1').family() == 4 && ip('::1').isLoopback()",
        "ip('10.0.0.1').isGlobalUnicast() && ip('169.254.0.1').isLinkLocalUnicast()",
        "isIP('::1') && !isIP('1.2.3') && !isIP('::ffff:1.2.3.4')",
        "ip.isCanonical('2001:db8::1') && !ip.isCanonical('2001:DB8::1')",
        "cidr('192.168.0.0/24').containsIP('192.168.0.1')",
        "cidr('192.168.0.0/24').containsIP(ip('192.168.0.1'))",
        "cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16') && cidr('10.0.0.0/8').prefixLength() == 8",
        "cidr('10.1.2.3/8').masked() == cidr('10.0.0.0/8') && isCIDR('::/0')",
        "string(cidr('10.0.0.0/8').ip()) == '10.0.0.0'",
        "semver('1.2.3').isLessThan(semver('1.10.0')) && semver('1.0.0-rc.1').isLessThan(semver('1.0.0'))",
        "semver('1.2.3').major() == 1 && semver('1.2.3').patch() == 3",
        "isSemver('1.0.0+build') && !isSemver('v1.0') && semver('1.0.0').compareTo(semver('1.0.0')) == 0",
    ] {
        check(rule, json!({}), true);
    }
    check("quantity('x') == quantity('1')", json!({}), false);
}

/// Why a definition with this rule at `spec` is refused; empty if it is not.
#[track_caller]
fn type_problem(rule: &Value) -> String {
    let causes = super::check_types(&schema(rule), "s");
    let told = causes
        .iter()
        .map(|cause| format!("{}: {}", cause.field, cause.message));
    told.collect::<Vec<_>>().join("; ")
}

#[test]
fn what_types_tell_is_refused_when_the_definition_is_written() {
    let refused = |rule: &str, expected: &str| {
        let problem = type_problem(&json!({"rule": rule}));
        assert!(problem.contains(expected), "{rule}: {problem:?}");
        assert!(problem.starts_with("s.properties[spec].x-kubernetes-validations[0].rule: "));
    };
    refused("self.missing == 1", "undefined field 'missing'");
    refused(
        "self.n == 'x'",
        "found no matching overload for '_==_' applied to '(int, string)'",
    );
    refused("self.n + self.s > 1", "'_+_' applied to '(int, string)'");
    refused("self.n", "cel expression must evaluate to a bool");
    refused("null", "cel expression must evaluate to a bool");
    refused(
        "other > 1",
        "undeclared reference to 'other' (in container '')",
    );
    refused(
        "self.s.startsWith(1)",
        "'startsWith' applied to 'string.(int)'",
    );
    refused(
        "self.s.frobnicate()",
        "undeclared reference to 'frobnicate'",
    );
    refused("self.n.all(x, true)", "cannot be range of a comprehension");
    refused(
        "self.list.all(x, x.startsWith('a'))",
        "'startsWith' applied to 'int.(string)'",
    );
    refused(
        "self.conditions.exists(c, c.kind == 'a')",
        "undefined field 'kind'",
    );
    refused(
        "self.labels.all(k, self.labels[k] > 1)",
        "'_>_' applied to '(string, int)'",
    );
    refused(
        "self.n.x == 1",
        "type 'int' does not support field selection",
    );
    refused("!self.n", "'!_' applied to '(int)'");
    refused(
        "self.n > 1 ? self.s : self.n",
        "'_?_:_' applied to '(bool, string, int)'",
    );
    refused(
        "self.?n.orValue(1).startsWith('a')",
        "'startsWith' applied to 'int.(string)'",
    );
    refused("self.n in self.s", "'@in' applied to '(int, string)'");
    refused(
        "sets.missing([1], [2])",
        "undeclared reference to 'sets.missing'",
    );
    refused("has(self.list.x)", "does not support field selection");
    let placed = type_problem(&json!({"rule": "true &&\n self.missing == 1"}));
    assert!(placed.contains("ERROR: <input>:2:"), "{placed}");
    assert!(
        placed.contains("\n |  self.missing == 1\n | ..."),
        "{placed}"
    );
    let message = type_problem(&json!({"rule": "true", "messageExpression": "self.n"}));
    assert!(message.contains(".messageExpression: "), "{message}");
    assert!(message.contains("must evaluate to a string"), "{message}");
}

#[test]
fn what_types_cannot_tell_is_left_to_the_objects() {
    for rule in [
        "self.port == 5 || self.port == '5%'",
        "type(self.port) == int && self.f > self.n",
        "self.f == 2 && self.n * 2 - 1 > 0 && 5 % 2 == 1",
        "self.from < self.to && self.to - self.from < duration('1h')",
        "self.from.getFullYear() > 2000",
        "self.list.map(x, x * 2).filter(x, x > 2).all(x, x < 9)",
        "self.list.exists_one(x, x == 1) && 1 in self.list && self.list + [1] == [1, 1]",
        "self.conditions.map(c, c.type).all(t, t.startsWith('A'))",
        "self.conditions.filter(c, c.status == 'True')[0].type == 'x'",
        "self.labels['a'] == 'b' && 'a' in self.labels && self.labels.a == 'b'",
        "self.?n.hasValue() && self.?labels[?'a'].orValue('') == ''",
        "has(self.s) && self.a__dash__b == 'x' && self.__namespace__ == 'y'",
        "self.s.split('/').join('-').size() > 2 && size(self.list) == 1",
        "!format.dns1123Label().validate(self.s).hasValue()",
        "format.named('uuid').value().validate(self.s).hasValue()",
        "quantity(self.s).add(quantity('1')).isGreaterThan(quantity('0'))",
        "cidr(self.s).containsIP(ip(self.t)) && url(self.s).getHost() == ''",
        "self.s == null || self == oldSelf || dyn(self.n) == 'x'",
        "self.n > 1 ? true : false",
        "[1, 2].sum() == 3 && [1, 2].min() == 1 && [2, 1].max() == 2",
        "['a', 'b'].indexOf('b') == 1 && [1, 1].lastIndexOf(1) == 1 && [1].indexOf(2) == -1",
        "'a1b2'.findAll('[0-9]', 1) == ['1'] && 'a1b2'.findAll('[0-9]') == ['1', '2']",
        "string(self.n) + 'x' == '1x' && int(self.s) > 0 && b'a' == bytes('a')",
    ] {
        assert_eq!(type_problem(&json!({"rule": rule})), "", "{rule}");
    }
    let before = json!({"optionalOldSelf": true,
        "rule": "self.s == self.t || oldSelf.hasValue() && oldSelf.t.value() == self.t",
        "messageExpression": "'expected ' + self.s"});
    assert_eq!(type_problem(&before), "");
    // What the first half of the list says of these it also does.
    check(
        "['a', 'b'].indexOf('b') == 1 && [1, 1].lastIndexOf(1) == 1 && [1].indexOf(2) == -1",
        json!({}),
        true,
    );
    check(
        "[1, 2].min() == 1 && [2, 1].max() == 2 && ['b', 'a'].min() == 'a'",
        json!({}),
        true,
    );
    check("'a1b2'.findAll('[0-9]', 1) == ['1']", json!({}), true);
}
