//! The functions of [`super::library`] by the types that they take and give.

use super::kind::{BOOL, INT, Kind, STRING};

/// A function: name, receiver (empty: none), further arguments, result. `any` is any type.
type Signature = (
    &'static str,
    &'static str,
    &'static [&'static str],
    &'static str,
);

#[rustfmt::skip]
const SIGNATURES: &[Signature] = &[
    ("size", "", &["any"], "int"), ("size", "any", &[], "int"),
    ("int", "", &["any"], "int"), ("uint", "", &["any"], "uint"), ("double", "", &["any"], "double"),
    ("string", "", &["any"], "string"), ("bytes", "", &["any"], "bytes"), ("bool", "", &["any"], "bool"),
    ("dyn", "", &["any"], "any"), ("type", "", &["any"], "type"),
    ("duration", "", &["any"], "duration"), ("timestamp", "", &["any"], "timestamp"),
    ("contains", "string", &["string"], "bool"), ("startsWith", "string", &["string"], "bool"),
    ("endsWith", "string", &["string"], "bool"),
    ("matches", "string", &["string"], "bool"), ("matches", "", &["string", "string"], "bool"),
    ("charAt", "string", &["int"], "string"),
    ("indexOf", "string", &["string"], "int"), ("indexOf", "string", &["string", "int"], "int"),
    ("lastIndexOf", "string", &["string"], "int"), ("lastIndexOf", "string", &["string", "int"], "int"),
    ("indexOf", "list", &["any"], "int"), ("lastIndexOf", "list", &["any"], "int"),
    ("lowerAscii", "string", &[], "string"), ("upperAscii", "string", &[], "string"),
    ("trim", "string", &[], "string"), ("reverse", "string", &[], "string"),
    ("replace", "string", &["string", "string"], "string"),
    ("replace", "string", &["string", "string", "int"], "string"),
    ("split", "string", &["string"], "strings"), ("split", "string", &["string", "int"], "strings"),
    ("substring", "string", &["int"], "string"), ("substring", "string", &["int", "int"], "string"),
    ("format", "string", &["list"], "string"), ("strings.quote", "", &["string"], "string"),
    ("join", "list", &[], "string"), ("join", "list", &["string"], "string"),
    ("find", "string", &["string"], "string"),
    ("findAll", "string", &["string"], "strings"), ("findAll", "string", &["string", "int"], "strings"),
    ("sum", "list", &[], "element"), ("min", "list", &[], "element"), ("max", "list", &[], "element"),
    ("isSorted", "list", &[], "bool"),
    ("sets.contains", "", &["list", "list"], "bool"), ("sets.intersects", "", &["list", "list"], "bool"),
    ("sets.equivalent", "", &["list", "list"], "bool"),
    ("optional.of", "", &["any"], "optional"), ("optional.ofNonZeroValue", "", &["any"], "optional"),
    ("optional.none", "", &[], "none"),
    ("hasValue", "optional", &[], "bool"), ("value", "optional", &[], "inner"),
    ("orValue", "optional", &["any"], "inner"), ("or", "optional", &["optional"], "receiver"),
    ("getFullYear", "timestamp", &[], "int"), ("getFullYear", "timestamp", &["string"], "int"),
    ("getMonth", "timestamp", &[], "int"), ("getMonth", "timestamp", &["string"], "int"),
    ("getDate", "timestamp", &[], "int"), ("getDate", "timestamp", &["string"], "int"),
    ("getDayOfMonth", "timestamp", &[], "int"), ("getDayOfMonth", "timestamp", &["string"], "int"),
    ("getDayOfWeek", "timestamp", &[], "int"), ("getDayOfWeek", "timestamp", &["string"], "int"),
    ("getDayOfYear", "timestamp", &[], "int"), ("getDayOfYear", "timestamp", &["string"], "int"),
    ("getHours", "timestamp", &[], "int"), ("getHours", "timestamp", &["string"], "int"),
    ("getMinutes", "timestamp", &[], "int"), ("getMinutes", "timestamp", &["string"], "int"),
    ("getSeconds", "timestamp", &[], "int"), ("getSeconds", "timestamp", &["string"], "int"),
    ("getMilliseconds", "timestamp", &[], "int"), ("getMilliseconds", "timestamp", &["string"], "int"),
    ("getHours", "duration", &[], "int"), ("getMinutes", "duration", &[], "int"),
    ("getSeconds", "duration", &[], "int"), ("getMilliseconds", "duration", &[], "int"),
    ("quantity", "", &["string"], "kubernetes.Quantity"), ("isQuantity", "", &["string"], "bool"),
    ("sign", "kubernetes.Quantity", &[], "int"), ("isInteger", "kubernetes.Quantity", &[], "bool"),
    ("asInteger", "kubernetes.Quantity", &[], "int"), ("asApproximateFloat", "kubernetes.Quantity", &[], "double"),
    ("compareTo", "kubernetes.Quantity", &["kubernetes.Quantity"], "int"),
    ("isLessThan", "kubernetes.Quantity", &["kubernetes.Quantity"], "bool"),
    ("isGreaterThan", "kubernetes.Quantity", &["kubernetes.Quantity"], "bool"),
    ("add", "kubernetes.Quantity", &["kubernetes.Quantity"], "kubernetes.Quantity"),
    ("add", "kubernetes.Quantity", &["int"], "kubernetes.Quantity"),
    ("sub", "kubernetes.Quantity", &["kubernetes.Quantity"], "kubernetes.Quantity"),
    ("sub", "kubernetes.Quantity", &["int"], "kubernetes.Quantity"),
    ("url", "", &["string"], "kubernetes.URL"), ("isURL", "", &["string"], "bool"),
    ("getScheme", "kubernetes.URL", &[], "string"), ("getHost", "kubernetes.URL", &[], "string"),
    ("getHostname", "kubernetes.URL", &[], "string"), ("getPort", "kubernetes.URL", &[], "string"),
    ("getEscapedPath", "kubernetes.URL", &[], "string"), ("getQuery", "kubernetes.URL", &[], "any"),
    ("ip", "", &["string"], "net.IP"), ("isIP", "", &["string"], "bool"), ("ip.isCanonical", "", &["string"], "bool"),
    ("family", "net.IP", &[], "int"), ("isUnspecified", "net.IP", &[], "bool"), ("isLoopback", "net.IP", &[], "bool"),
    ("isLinkLocalUnicast", "net.IP", &[], "bool"), ("isLinkLocalMulticast", "net.IP", &[], "bool"),
    ("isGlobalUnicast", "net.IP", &[], "bool"),
    ("cidr", "", &["string"], "net.CIDR"), ("isCIDR", "", &["string"], "bool"),
    ("prefixLength", "net.CIDR", &[], "int"), ("ip", "net.CIDR", &[], "net.IP"), ("masked", "net.CIDR", &[], "net.CIDR"),
    ("containsIP", "net.CIDR", &["net.IP"], "bool"), ("containsIP", "net.CIDR", &["string"], "bool"),
    ("containsCIDR", "net.CIDR", &["net.CIDR"], "bool"), ("containsCIDR", "net.CIDR", &["string"], "bool"),
    ("semver", "", &["string"], "kubernetes.Semver"), ("isSemver", "", &["string"], "bool"),
    ("major", "kubernetes.Semver", &[], "int"), ("minor", "kubernetes.Semver", &[], "int"),
    ("patch", "kubernetes.Semver", &[], "int"),
    ("compareTo", "kubernetes.Semver", &["kubernetes.Semver"], "int"),
    ("isLessThan", "kubernetes.Semver", &["kubernetes.Semver"], "bool"),
    ("isGreaterThan", "kubernetes.Semver", &["kubernetes.Semver"], "bool"),
    ("format.dns1123Label", "", &[], "format"), ("format.dns1123Subdomain", "", &[], "format"),
    ("format.dns1035Label", "", &[], "format"), ("format.qualifiedName", "", &[], "format"),
    ("format.labelValue", "", &[], "format"), ("format.uri", "", &[], "format"), ("format.uuid", "", &[], "format"),
    ("format.byte", "", &[], "format"), ("format.date", "", &[], "format"), ("format.datetime", "", &[], "format"),
    ("format.named", "", &["string"], "any"), ("validate", "format", &["string"], "failures"),
];

/// The type of a call.
pub(super) fn call<'s>(
    name: &str,
    receiver: Option<&Kind<'s>>,
    arguments: &[Kind<'s>],
) -> Result<Kind<'s>, String> {
    let mut known = false;
    for (_, wanted, parameters, result) in SIGNATURES.iter().filter(|(n, ..)| *n == name) {
        known = true;
        let receiver_fits = match receiver {
            None => wanted.is_empty(),
            Some(receiver) => !wanted.is_empty() && is(receiver, wanted),
        };
        let arguments_fit = parameters.len() == arguments.len()
            && parameters
                .iter()
                .zip(arguments)
                .all(|(wanted, given)| is(given, wanted));
        if receiver_fits && arguments_fit {
            return Ok(result_of(result, receiver, arguments));
        }
    }
    if !known {
        return Err(format!(
            "undeclared reference to '{name}' (in container '')"
        ));
    }
    Err(mismatch(name, receiver, arguments))
}

/// The sentence about arguments that no overload takes.
pub(super) fn mismatch(name: &str, receiver: Option<&Kind<'_>>, arguments: &[Kind<'_>]) -> String {
    let listed: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    let receiver = receiver.map_or_else(String::new, |receiver| format!("{receiver}."));
    format!(
        "found no matching overload for '{name}' applied to '{receiver}({})'",
        listed.join(", ")
    )
}

fn is(given: &Kind<'_>, wanted: &str) -> bool {
    match (given, wanted) {
        (_, "any") | (Kind::Dyn, _) => true,
        (Kind::List(_), wanted) => wanted == "list",
        (Kind::Optional(_), wanted) => wanted == "optional",
        (Kind::Plain(name), wanted) => *name == wanted,
        _ => false,
    }
}

fn result_of<'s>(
    result: &'static str,
    receiver: Option<&Kind<'s>>,
    arguments: &[Kind<'s>],
) -> Kind<'s> {
    match (result, receiver) {
        ("any", _) => Kind::Dyn,
        ("bool", _) => BOOL,
        ("int", _) => INT,
        ("string", _) => STRING,
        ("strings", _) => Kind::list(STRING),
        ("failures", _) => Kind::optional(Kind::list(STRING)),
        ("none", _) => Kind::optional(Kind::Dyn),
        ("optional", _) => Kind::optional(arguments.first().cloned().unwrap_or(Kind::Dyn)),
        ("element", Some(Kind::List(inner))) | ("inner", Some(Kind::Optional(inner))) => {
            (**inner).clone()
        }
        ("receiver", Some(receiver)) => receiver.clone(),
        ("element" | "inner" | "receiver", _) => Kind::Dyn,
        (name, _) => Kind::Plain(name),
    }
}
