//! The types that Kubernetes adds to CEL: quantities, URLs, addresses, networks and versions.

use std::net::IpAddr;
use std::sync::Arc;

use cel::common::types::{INT_TYPE, STRING_TYPE, Type};
use cel::common::value::CowVal;
use cel::objects::{Key, Map, Opaque};
use cel::{DeclarationError, Env, ExecutionError, Value};
use ipnet::IpNet;
use semver::Version;
use url::Url;

use super::quantity::Quantity;

type Arguments<'b, 'v> = Vec<CowVal<'b, 'v>>;
type Answer<'b, 'v> = Result<CowVal<'b, 'v>, ExecutionError>;

/// Values of a type that CEL itself does not have.
macro_rules! opaque {
    ($($wrapper:ident($inner:ty) = $name:literal;)*) => {
        $(
            #[derive(Debug, Clone, PartialEq, Eq)]
            struct $wrapper($inner);

            impl $wrapper {
                fn kind() -> Type {
                    Type::new_opaque_type($name)
                }
            }

            impl Opaque for $wrapper {
                fn runtime_type_name(&self) -> &str {
                    $name
                }
            }
        )*
    };
}

opaque! {
    Amount(Quantity) = "kubernetes.Quantity";
    Link(Url) = "kubernetes.URL";
    Address(IpAddr) = "net.IP";
    Network(IpNet) = "net.CIDR";
    Release(Version) = "kubernetes.Semver";
}

/// Declares members of a type: name, a name for the overload, further arguments, and what is answered.
macro_rules! members {
    ($env:ident, $wrapper:ident: $($name:literal $id:literal ($($argument:expr),*) => $answer:expr;)*) => {
        $($env.add_member_overload($name, $id, $wrapper::kind(), vec![$($argument),*], |arguments| {
            let this: $wrapper = opaque_at(&arguments, 0)?;
            let answer: fn(&$wrapper, &Arguments<'_, '_>) -> Result<Value, ExecutionError> = $answer;
            give(answer(&this, &arguments)?)
        })?;)*
    };
}

/// Declares how a text becomes a value of a type, and the question whether it can.
macro_rules! from_text {
    ($env:ident, $make:literal, $ask:literal, $wrapper:ident, $parse:expr) => {
        $env.add_type($wrapper::kind())?;
        $env.add_overload(
            $make,
            concat!("string_to_", $make),
            vec![STRING_TYPE],
            |arguments| {
                let parse: fn(&str) -> Option<$wrapper> = $parse;
                let text = text_at(&arguments, 0)?;
                let value = parse(&text).ok_or_else(|| {
                    ExecutionError::function_error($make, format!("cannot read {text:?}"))
                })?;
                give(Value::Opaque(Arc::new(value)))
            },
        )?;
        $env.add_overload(
            $ask,
            concat!("string_", $ask),
            vec![STRING_TYPE],
            |arguments| {
                let parse: fn(&str) -> Option<$wrapper> = $parse;
                give(Value::Bool(parse(&text_at(&arguments, 0)?).is_some()))
            },
        )?;
    };
}

pub(super) fn register(env: &mut Env) -> Result<(), DeclarationError> {
    register_quantities(env)?;
    register_urls(env)?;
    register_addresses(env)?;
    register_networks(env)?;
    register_versions(env)
}

fn register_quantities(env: &mut Env) -> Result<(), DeclarationError> {
    from_text!(env, "quantity", "isQuantity", Amount, |text| {
        Quantity::parse(text).map(Amount)
    });
    members! { env, Amount:
        "sign" "quantity_sign" () => |this, _| Ok(Value::Int(this.0.sign()));
        "isInteger" "quantity_is_integer" () => |this, _| Ok(Value::Bool(this.0.integer().is_some()));
        "asInteger" "quantity_as_integer" () => |this, _| {
            this.0.integer().map(Value::Int).ok_or_else(|| {
                ExecutionError::function_error("asInteger", "not a whole number")
            })
        };
        "asApproximateFloat" "quantity_as_float" () => |this, _| Ok(Value::Float(this.0.float()));
        "compareTo" "quantity_compare" (Amount::kind()) => |this, arguments| {
            Ok(order(this.0.cmp(&opaque_at::<Amount>(arguments, 1)?.0)))
        };
        "isLessThan" "quantity_less" (Amount::kind()) => |this, arguments| {
            Ok(Value::Bool(this.0 < opaque_at::<Amount>(arguments, 1)?.0))
        };
        "isGreaterThan" "quantity_greater" (Amount::kind()) => |this, arguments| {
            Ok(Value::Bool(this.0 > opaque_at::<Amount>(arguments, 1)?.0))
        };
        "add" "quantity_add" (Amount::kind()) => |this, arguments| {
            amount(this.0.add(opaque_at::<Amount>(arguments, 1)?.0))
        };
        "add" "quantity_add_int" (INT_TYPE) => |this, arguments| {
            amount(this.0.add(Quantity::of(int_at(arguments, 1)?)))
        };
        "sub" "quantity_sub" (Amount::kind()) => |this, arguments| {
            amount(this.0.sub(opaque_at::<Amount>(arguments, 1)?.0))
        };
        "sub" "quantity_sub_int" (INT_TYPE) => |this, arguments| {
            amount(this.0.sub(Quantity::of(int_at(arguments, 1)?)))
        };
    }
    Ok(())
}

fn register_urls(env: &mut Env) -> Result<(), DeclarationError> {
    from_text!(env, "url", "isURL", Link, link);
    members! { env, Link:
        "getScheme" "url_scheme" () => |this, _| {
            Ok(Value::from(if is_relative(&this.0) { "" } else { this.0.scheme() }))
        };
        "getHost" "url_host" () => |this, _| {
            let host = host(&this.0);
            Ok(match this.0.port() {
                Some(port) => format!("{host}:{port}").into(),
                None => host.into(),
            })
        };
        "getHostname" "url_hostname" () => |this, _| {
            Ok(host(&this.0).trim_matches(['[', ']']).into())
        };
        "getPort" "url_port" () => |this, _| {
            Ok(this.0.port().map_or_else(String::new, |port| port.to_string()).into())
        };
        "getEscapedPath" "url_path" () => |this, _| Ok(this.0.path().into());
        "getQuery" "url_query" () => |this, _| Ok(query(&this.0));
    }
    Ok(())
}

fn register_addresses(env: &mut Env) -> Result<(), DeclarationError> {
    from_text!(env, "ip", "isIP", Address, |text| {
        address(text).map(Address)
    });
    env.add_overload(
        "ip.isCanonical",
        "ip_is_canonical",
        vec![STRING_TYPE],
        |arguments| {
            let text = text_at(&arguments, 0)?;
            let parsed = address(&text).ok_or_else(|| {
                ExecutionError::function_error("ip.isCanonical", "not an address")
            })?;
            give(Value::Bool(parsed.to_string() == text))
        },
    )?;
    members! { env, Address:
        "family" "ip_family" () => |this, _| Ok(Value::Int(if this.0.is_ipv4() { 4 } else { 6 }));
        "isUnspecified" "ip_unspecified" () => |this, _| Ok(Value::Bool(this.0.is_unspecified()));
        "isLoopback" "ip_loopback" () => |this, _| Ok(Value::Bool(this.0.is_loopback()));
        "isLinkLocalUnicast" "ip_link_local" () => |this, _| Ok(Value::Bool(is_link_local(&this.0)));
        "isLinkLocalMulticast" "ip_link_local_multicast" () => |this, _| {
            Ok(Value::Bool(is_link_local_multicast(&this.0)))
        };
        "isGlobalUnicast" "ip_global_unicast" () => |this, _| {
            let special = this.0.is_unspecified() || this.0.is_loopback() || this.0.is_multicast();
            let broadcast = matches!(this.0, IpAddr::V4(ip) if ip.is_broadcast());
            Ok(Value::Bool(!special && !broadcast && !is_link_local(&this.0)))
        };
    }
    env.add_overload(
        "string",
        "ip_to_string",
        vec![Address::kind()],
        |arguments| {
            let this: Address = opaque_at(&arguments, 0)?;
            give(this.0.to_string().into())
        },
    )
}

fn register_networks(env: &mut Env) -> Result<(), DeclarationError> {
    from_text!(env, "cidr", "isCIDR", Network, |text| {
        text.parse().ok().map(Network)
    });
    members! { env, Network:
        "prefixLength" "cidr_prefix" () => |this, _| Ok(Value::Int(this.0.prefix_len().into()));
        "ip" "cidr_ip" () => |this, _| Ok(Value::Opaque(Arc::new(Address(this.0.addr()))));
        "masked" "cidr_masked" () => |this, _| Ok(Value::Opaque(Arc::new(Network(this.0.trunc()))));
        "containsIP" "cidr_contains_ip" (Address::kind()) => |this, arguments| {
            Ok(Value::Bool(this.0.contains(&opaque_at::<Address>(arguments, 1)?.0)))
        };
        "containsIP" "cidr_contains_ip_text" (STRING_TYPE) => |this, arguments| {
            let text = text_at(arguments, 1)?;
            let other = address(&text)
                .ok_or_else(|| ExecutionError::function_error("containsIP", "not an address"))?;
            Ok(Value::Bool(this.0.contains(&other)))
        };
        "containsCIDR" "cidr_contains_cidr" (Network::kind()) => |this, arguments| {
            Ok(Value::Bool(this.0.contains(&opaque_at::<Network>(arguments, 1)?.0)))
        };
        "containsCIDR" "cidr_contains_cidr_text" (STRING_TYPE) => |this, arguments| {
            let other: IpNet = text_at(arguments, 1)?
                .parse()
                .map_err(|_| ExecutionError::function_error("containsCIDR", "not a network"))?;
            Ok(Value::Bool(this.0.contains(&other)))
        };
    }
    env.add_overload(
        "string",
        "cidr_to_string",
        vec![Network::kind()],
        |arguments| {
            let this: Network = opaque_at(&arguments, 0)?;
            give(this.0.to_string().into())
        },
    )
}

fn register_versions(env: &mut Env) -> Result<(), DeclarationError> {
    from_text!(env, "semver", "isSemver", Release, |text| {
        Version::parse(text).ok().map(Release)
    });
    members! { env, Release:
        "major" "semver_major" () => |this, _| number(this.0.major);
        "minor" "semver_minor" () => |this, _| number(this.0.minor);
        "patch" "semver_patch" () => |this, _| number(this.0.patch);
        "compareTo" "semver_compare" (Release::kind()) => |this, arguments| {
            Ok(order(this.0.cmp_precedence(&opaque_at::<Release>(arguments, 1)?.0)))
        };
        "isLessThan" "semver_less" (Release::kind()) => |this, arguments| {
            Ok(Value::Bool(this.0.cmp_precedence(&opaque_at::<Release>(arguments, 1)?.0).is_lt()))
        };
        "isGreaterThan" "semver_greater" (Release::kind()) => |this, arguments| {
            Ok(Value::Bool(this.0.cmp_precedence(&opaque_at::<Release>(arguments, 1)?.0).is_gt()))
        };
    }
    Ok(())
}

fn give<'b, 'v>(value: Value) -> Answer<'b, 'v> {
    Ok(CowVal::Owned(value.try_into()?))
}

fn amount(quantity: Option<Quantity>) -> Result<Value, ExecutionError> {
    quantity
        .map(|quantity| Value::Opaque(Arc::new(Amount(quantity))))
        .ok_or_else(|| ExecutionError::function_error("quantity", "overflow"))
}

fn number(number: u64) -> Result<Value, ExecutionError> {
    i64::try_from(number)
        .map(Value::Int)
        .map_err(|_| ExecutionError::function_error("semver", "overflow"))
}

fn order(order: std::cmp::Ordering) -> Value {
    Value::Int(order as i64)
}

fn opaque_at<T: Opaque + Clone>(
    arguments: &Arguments<'_, '_>,
    index: usize,
) -> Result<T, ExecutionError> {
    let value = Value::try_from(arguments[index].as_ref())?;
    let found = match &value {
        Value::Opaque(opaque) => opaque.downcast_ref::<T>().cloned(),
        _ => None,
    };
    found.ok_or_else(|| {
        ExecutionError::function_error("argument", format!("unexpected {}", value.type_of()))
    })
}

fn text_at(arguments: &Arguments<'_, '_>, index: usize) -> Result<String, ExecutionError> {
    super::library::text(arguments, index)
}

fn int_at(arguments: &Arguments<'_, '_>, index: usize) -> Result<i64, ExecutionError> {
    match Value::try_from(arguments[index].as_ref())? {
        Value::Int(number) => Ok(number),
        other => Err(ExecutionError::function_error(
            "argument",
            format!("unexpected {}", other.type_of()),
        )),
    }
}

/// Host of URLs that are only a path; nothing can be named like this.
const NOWHERE: &str = "nowhere.invalid";

/// An absolute URL, or an absolute path.
fn link(text: &str) -> Option<Link> {
    if text.starts_with('/') {
        let base = Url::parse(&format!("http://{NOWHERE}")).ok()?;
        return base.join(text).ok().map(Link);
    }
    Url::parse(text).ok().map(Link)
}

fn is_relative(url: &Url) -> bool {
    url.host_str() == Some(NOWHERE)
}

fn host(url: &Url) -> String {
    let host = url.host_str().filter(|host| *host != NOWHERE);
    host.unwrap_or_default().to_owned()
}

fn query(url: &Url) -> Value {
    let mut found: std::collections::HashMap<Key, Value> = std::collections::HashMap::new();
    let mut names: Vec<String> = url
        .query_pairs()
        .map(|(name, _)| name.into_owned())
        .collect();
    names.sort();
    names.dedup();
    for name in names {
        let values = url.query_pairs().filter(|(key, _)| *key == *name);
        let values: Vec<Value> = values.map(|(_, value)| value.into_owned().into()).collect();
        found.insert(Key::from(name), Value::List(Arc::new(values)));
    }
    Value::Map(Map {
        map: Arc::new(found),
    })
}

/// Kubernetes takes neither zones nor IPv4 in IPv6.
fn address(text: &str) -> Option<IpAddr> {
    let address: IpAddr = text.parse().ok()?;
    match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => None,
        address => Some(address),
    }
}

fn is_link_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn is_link_local_multicast(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    }
}
