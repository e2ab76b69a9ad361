//! The functions that rules may use: CEL's own, its string extensions, and those that Kubernetes adds.

use std::cmp::Ordering;
use std::sync::{Arc, LazyLock};

use cel::common::types::{
    CelBool, CelInt, CelList, CelOptional, CelString, DYN_TYPE, INT_TYPE, LIST_TYPE, STRING_TYPE,
    Type,
};
use cel::common::value::{CowVal, Val};
use cel::objects::Opaque;
use cel::{DeclarationError, Env, ExecutionError, Value, extensions};
use regex::RegexBuilder;

use super::types;
use crate::resources::names;
use crate::selector;

/// Compiled size of a regular expression at most.
const MAX_PATTERN: usize = 1 << 20;

type Arguments<'b, 'v> = Vec<CowVal<'b, 'v>>;
type Answer<'b, 'v> = Result<CowVal<'b, 'v>, ExecutionError>;

static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib();
    register(&mut env).expect("no function is declared twice");
    Arc::new(env)
});

/// The environment of every rule.
pub(super) fn environment() -> Arc<Env> {
    ENVIRONMENT.clone()
}

fn register(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_extension(extensions::strings)?;
    env.add_member_overload("find", "string_find", STRING_TYPE, vec![STRING_TYPE], find)?;
    env.add_member_overload(
        "findAll",
        "string_find_all",
        STRING_TYPE,
        vec![STRING_TYPE],
        find_all,
    )?;
    env.add_member_overload(
        "findAll",
        "string_find_all_limit",
        STRING_TYPE,
        vec![STRING_TYPE, INT_TYPE],
        find_all,
    )?;
    env.add_member_overload("sum", "list_sum", LIST_TYPE, vec![], sum)?;
    env.add_member_overload("min", "list_min", LIST_TYPE, vec![], |arguments| {
        extreme(&arguments, Ordering::Less)
    })?;
    env.add_member_overload("max", "list_max", LIST_TYPE, vec![], |arguments| {
        extreme(&arguments, Ordering::Greater)
    })?;
    env.add_member_overload(
        "indexOf",
        "list_index_of",
        LIST_TYPE,
        vec![DYN_TYPE],
        |arguments| {
            let wanted = Value::try_from(arguments[1].as_ref())?;
            position(list(&arguments, 0)?.iter().position(|item| *item == wanted))
        },
    )?;
    env.add_member_overload(
        "lastIndexOf",
        "list_last_index_of",
        LIST_TYPE,
        vec![DYN_TYPE],
        |arguments| {
            let wanted = Value::try_from(arguments[1].as_ref())?;
            position(
                list(&arguments, 0)?
                    .iter()
                    .rposition(|item| *item == wanted),
            )
        },
    )?;
    env.add_member_overload("isSorted", "list_is_sorted", LIST_TYPE, vec![], is_sorted)?;
    register_sets(env)?;
    types::register(env)?;
    register_formats(env)
}

pub(super) fn text(arguments: &Arguments<'_, '_>, index: usize) -> Result<String, ExecutionError> {
    match Value::try_from(arguments[index].as_ref())? {
        Value::String(text) => Ok((*text).clone()),
        other => Err(ExecutionError::function_error(
            "string",
            format!("unexpected {}", other.type_of()),
        )),
    }
}

fn list(arguments: &Arguments<'_, '_>, index: usize) -> Result<Vec<Value>, ExecutionError> {
    match Value::try_from(arguments[index].as_ref())? {
        Value::List(items) => Ok((*items).clone()),
        other => Err(ExecutionError::function_error(
            "list",
            format!("unexpected {}", other.type_of()),
        )),
    }
}

fn texts<'b, 'v>(items: impl Iterator<Item = String>) -> CowVal<'b, 'v> {
    let items: Vec<Box<dyn Val>> = items
        .map(|item| Box::new(CelString::from(item)) as Box<dyn Val>)
        .collect();
    CowVal::owned(CelList::from(items))
}

fn pattern(text: &str) -> Result<regex::Regex, ExecutionError> {
    RegexBuilder::new(text)
        .size_limit(MAX_PATTERN)
        .build()
        .map_err(|error| ExecutionError::function_error("find", error))
}

fn find<'b, 'v>(arguments: Arguments<'b, 'v>) -> Answer<'b, 'v> {
    let (subject, pattern) = (text(&arguments, 0)?, pattern(&text(&arguments, 1)?)?);
    let found = pattern.find(&subject).map_or("", |found| found.as_str());
    Ok(CowVal::owned(CelString::from(found.to_owned())))
}

fn find_all<'b, 'v>(arguments: Arguments<'b, 'v>) -> Answer<'b, 'v> {
    let (subject, pattern) = (text(&arguments, 0)?, pattern(&text(&arguments, 1)?)?);
    // A limit below zero is none.
    let limit = match arguments.get(2) {
        None => usize::MAX,
        Some(limit) => match Value::try_from(limit.as_ref())? {
            Value::Int(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
            other => {
                let message = format!("unexpected {}", other.type_of());
                return Err(ExecutionError::function_error("findAll", message));
            }
        },
    };
    let found = pattern.find_iter(&subject).take(limit);
    Ok(texts(found.map(|m| m.as_str().to_owned())))
}

/// The smallest or the largest item.
fn extreme<'b, 'v>(arguments: &Arguments<'b, 'v>, wanted: Ordering) -> Answer<'b, 'v> {
    let mut items = list(arguments, 0)?.into_iter();
    let error = |message: &str| ExecutionError::function_error("list", message);
    let mut found = items
        .next()
        .ok_or_else(|| error("called on an empty list"))?;
    for item in items {
        let order = item.partial_cmp(&found);
        if order.ok_or_else(|| error("items cannot be compared"))? == wanted {
            found = item;
        }
    }
    Ok(CowVal::Owned(found.try_into()?))
}

/// Where something was found; -1 for nowhere.
fn position<'b, 'v>(index: Option<usize>) -> Answer<'b, 'v> {
    let index = index.and_then(|index| i64::try_from(index).ok());
    Ok(CowVal::owned(CelInt::from(index.unwrap_or(-1))))
}

fn sum<'b, 'v>(arguments: Arguments<'b, 'v>) -> Answer<'b, 'v> {
    let mut total = 0_i64;
    for item in list(&arguments, 0)? {
        match item {
            Value::Int(number) => {
                total = total
                    .checked_add(number)
                    .ok_or_else(|| ExecutionError::function_error("sum", "overflow"))?;
            }
            other => {
                let message = format!("unexpected {}", other.type_of());
                return Err(ExecutionError::function_error("sum", message));
            }
        }
    }
    Ok(CowVal::owned(CelInt::from(total)))
}

fn is_sorted<'b, 'v>(arguments: Arguments<'b, 'v>) -> Answer<'b, 'v> {
    let items = list(&arguments, 0)?;
    let sorted = items.windows(2).all(|pair| {
        pair[0]
            .partial_cmp(&pair[1])
            .is_some_and(|order| order.is_le())
    });
    Ok(CowVal::owned(CelBool::from(sorted)))
}

fn register_sets(env: &mut Env) -> Result<(), DeclarationError> {
    let lists = || vec![LIST_TYPE, LIST_TYPE];
    env.add_overload("sets.contains", "sets_contains", lists(), |args| {
        let (all, some) = (list(&args, 0)?, list(&args, 1)?);
        let holds = some.iter().all(|item| all.contains(item));
        Ok(CowVal::owned(CelBool::from(holds)))
    })?;
    env.add_overload("sets.intersects", "sets_intersects", lists(), |args| {
        let (left, right) = (list(&args, 0)?, list(&args, 1)?);
        let holds = left.iter().any(|item| right.contains(item));
        Ok(CowVal::owned(CelBool::from(holds)))
    })?;
    env.add_overload("sets.equivalent", "sets_equivalent", lists(), |args| {
        let (left, right) = (list(&args, 0)?, list(&args, 1)?);
        let holds = left.iter().all(|item| right.contains(item))
            && right.iter().all(|item| left.contains(item));
        Ok(CowVal::owned(CelBool::from(holds)))
    })
}

/// What `format.dns1123Label()` and its siblings return.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Format(&'static str);

const FORMAT: &str = "kubernetes.NamedFormat";

impl Opaque for Format {
    fn runtime_type_name(&self) -> &str {
        FORMAT
    }
}

fn format<'b, 'v>(name: &'static str) -> Answer<'b, 'v> {
    let value = Value::Opaque(Arc::new(Format(name)));
    Ok(CowVal::Owned(value.try_into()?))
}

fn register_formats(env: &mut Env) -> Result<(), DeclarationError> {
    macro_rules! formats {
        ($($name:literal),* $(,)?) => {
            $(env.add_overload(
                concat!("format.", $name),
                concat!("format_", $name),
                vec![],
                |_| format($name),
            )?;)*
            env.add_overload("format.named", "format_named", vec![STRING_TYPE], |args| {
                match text(&args, 0)?.as_str() {
                    $($name => {
                        let value: Box<dyn Val> = Value::Opaque(Arc::new(Format($name))).try_into()?;
                        Ok(CowVal::owned(CelOptional::of(value)))
                    })*
                    _ => Ok(CowVal::owned(CelOptional::none())),
                }
            })?;
        };
    }
    formats!(
        "dns1123Label",
        "dns1123Subdomain",
        "dns1035Label",
        "qualifiedName",
        "labelValue",
        "uri",
        "uuid",
        "byte",
        "date",
        "datetime",
    );
    env.add_member_overload(
        "validate",
        "format_validate",
        Type::new_opaque_type(FORMAT),
        vec![STRING_TYPE],
        validate,
    )?;
    // The type must be known by name for the overload above to be found.
    env.add_type(Type::new_opaque_type(FORMAT))?;
    Ok(())
}

/// None if the text fits, otherwise the reasons why not.
fn validate<'b, 'v>(arguments: Arguments<'b, 'v>) -> Answer<'b, 'v> {
    let Value::Opaque(opaque) = Value::try_from(arguments[0].as_ref())? else {
        return Err(ExecutionError::function_error("validate", "not a format"));
    };
    let Some(Format(name)) = opaque.downcast_ref::<Format>() else {
        return Err(ExecutionError::function_error("validate", "not a format"));
    };
    let text = text(&arguments, 1)?;
    if fits(name, &text) {
        return Ok(CowVal::owned(CelOptional::none()));
    }
    let reasons = texts(std::iter::once(format!("must be a valid {name}")));
    Ok(CowVal::owned(CelOptional::of(reasons.into_owned())))
}

fn fits(format: &str, text: &str) -> bool {
    use base64::Engine;
    match format {
        "dns1123Label" => names::is_label(text),
        "dns1123Subdomain" => names::is_subdomain(text),
        "dns1035Label" => {
            names::is_label(text) && text.starts_with(|c: char| c.is_ascii_lowercase())
        }
        "qualifiedName" => selector::check_label_key(text).is_ok(),
        "labelValue" => selector::check_label_value(text).is_ok(),
        "uri" => text
            .parse::<http::Uri>()
            .is_ok_and(|uri| uri.scheme().is_some()),
        "uuid" => text.len() == 36 && text.split('-').count() == 5,
        "byte" => base64::engine::general_purpose::STANDARD
            .decode(text)
            .is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok(),
        "datetime" => text.parse::<jiff::Timestamp>().is_ok(),
        _ => false,
    }
}
