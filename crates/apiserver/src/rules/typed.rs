//! Checking the types of rules when a definition is written, as far as they can be told: a misspelt field or a number
//! compared with a string is refused then, not at the first object.

use cel::IdedExpr;
use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue, operators};

use super::compile::{Code, STACK};
use super::kind::{BOOL, INT, Kind, STRING};
use super::signatures::{call, mismatch};
use crate::schema::{Additional, Schema};
use crate::status::Cause;

/// Every rule under `schema` whose types do not fit; `path` is where the schema stands.
pub(crate) fn check_types(schema: &Schema, path: &str) -> Vec<Cause> {
    if !schema.has_rules {
        return Vec::new();
    }
    let mut causes = Vec::new();
    // Rules are nested deeper than the stack of a worker goes.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("rule-checker".into())
            .stack_size(STACK);
        match thread.spawn_scoped(scope, || visit(schema, path, true, &mut causes)) {
            Ok(running) => drop(running.join()),
            Err(error) => tracing::warn!(%error, "the types of rules are not checked"),
        }
    });
    causes
}

/// The name of the type of an expression that sees these variables, or what is wrong with it.
pub(super) fn type_of(code: &Code, names: Vec<(&str, Kind<'_>)>) -> Result<String, String> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("rule-checker".into())
            .stack_size(STACK);
        let check = || {
            let scope = Scope { names, outer: None };
            let found = (Checker { code }).expression(code.program.expression(), &scope);
            found
                .map(|kind| kind.to_string())
                .map_err(|problem| format!("compilation failed: {problem}"))
        };
        let running = thread
            .spawn_scoped(scope, check)
            .map_err(|error| format!("cannot start a thread to check it: {error}"))?;
        let done = running.join();
        done.unwrap_or_else(|_| Err("the expression is malformed".into()))
    })
}

fn visit(schema: &Schema, path: &str, whole: bool, causes: &mut Vec<Cause>) {
    if !schema.has_rules {
        return;
    }
    for (index, rule) in schema.rules.iter().enumerate() {
        let at = |field: &str| format!("{path}.x-kubernetes-validations[{index}].{field}");
        let this = Kind::of(schema, whole);
        let before = match rule.optional_old_self {
            true => Kind::optional(this.clone()),
            false => this.clone(),
        };
        let mut check = |code: &Code, field: &str, wanted: &Kind<'_>, sentence: &str| {
            let scope = Scope::new(this.clone(), before.clone());
            let problem = match (Checker { code }).expression(code.program.expression(), &scope) {
                Ok(found) if found == *wanted || found == Kind::Dyn => return,
                Ok(_) => sentence.to_owned(),
                Err(problem) => format!("compilation failed: {problem}"),
            };
            let source = &code.program.source_info().source;
            causes.push(Cause::invalid(at(field), &source.as_str().into(), &problem));
        };
        check(
            &rule.program,
            "rule",
            &BOOL,
            "cel expression must evaluate to a bool",
        );
        if let Some(message) = &rule.message_expression {
            let sentence = "messageExpression must evaluate to a string";
            check(message, "messageExpression", &STRING, sentence);
        }
    }
    for (name, field) in &schema.properties {
        visit(field, &format!("{path}.properties[{name}]"), false, causes);
    }
    if let Some(Additional::Schema(values)) = &schema.additional {
        visit(
            values,
            &format!("{path}.additionalProperties"),
            false,
            causes,
        );
    }
    if let Some(items) = &schema.items {
        visit(items, &format!("{path}.items"), false, causes);
    }
}

/// The variables that an expression sees.
struct Scope<'a, 's> {
    names: Vec<(&'a str, Kind<'s>)>,
    outer: Option<&'a Scope<'a, 's>>,
}

impl<'a, 's> Scope<'a, 's> {
    fn new(this: Kind<'s>, before: Kind<'s>) -> Self {
        Self {
            names: vec![("self", this), ("oldSelf", before)],
            outer: None,
        }
    }

    fn get(&self, name: &str) -> Option<&Kind<'s>> {
        let own = self.names.iter().find(|(known, _)| *known == name);
        own.map(|(_, kind)| kind)
            .or_else(|| self.outer.and_then(|outer| outer.get(name)))
    }
}

/// Names of types, and the first words of longer ones.
const TYPES: &[&str] = &[
    "bool",
    "bytes",
    "double",
    "dyn",
    "duration",
    "google",
    "int",
    "kubernetes",
    "list",
    "map",
    "net",
    "null_type",
    "optional_type",
    "string",
    "timestamp",
    "type",
    "uint",
];

struct Checker<'c> {
    code: &'c Code,
}

impl Checker<'_> {
    fn expression<'s>(
        &self,
        expression: &IdedExpr,
        scope: &Scope<'_, 's>,
    ) -> Result<Kind<'s>, String> {
        let at = |problem: String| self.located(expression.id, &problem);
        match &expression.expr {
            Expr::Unspecified => Ok(Kind::Dyn),
            Expr::Literal(literal) => Ok(literal_kind(literal)),
            Expr::Ident(name) => match scope.get(name) {
                Some(kind) => Ok(kind.clone()),
                None if TYPES.contains(&name.as_str()) => Ok(Kind::Dyn),
                None => Err(at(format!(
                    "undeclared reference to '{name}' (in container '')"
                ))),
            },
            Expr::Select(select) => {
                let operand = self.expression(&select.operand, scope)?;
                let field = operand.field(&select.field).map_err(at)?;
                Ok(if select.test { BOOL } else { field })
            }
            Expr::Call(call) => self.call(expression.id, call, scope),
            Expr::List(list) => {
                let mut items: Option<Kind<'s>> = None;
                for element in &list.elements {
                    let kind = self.expression(element, scope)?;
                    items = Some(items.map_or(kind.clone(), |items| items.join(kind)));
                }
                Ok(Kind::list(items.unwrap_or(Kind::Dyn)))
            }
            Expr::Map(map) => {
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        self.expression(&entry.key, scope)?;
                        self.expression(&entry.value, scope)?;
                    }
                }
                Ok(Kind::Map(Box::new(Kind::Dyn)))
            }
            Expr::Struct(_) => Ok(Kind::Dyn),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension, scope),
        }
    }

    fn call<'s>(
        &self,
        id: u64,
        expression: &CallExpr,
        scope: &Scope<'_, 's>,
    ) -> Result<Kind<'s>, String> {
        let arguments = expression
            .args
            .iter()
            .map(|argument| self.expression(argument, scope))
            .collect::<Result<Vec<_>, _>>()?;
        let name = expression.func_name.as_str();
        let found = match &expression.target {
            Some(target) => match namespaced(target, name, scope) {
                Some(qualified) => call(&qualified, None, &arguments),
                None => call(name, Some(&self.expression(target, scope)?), &arguments),
            },
            None => match operator(name, &arguments, &expression.args) {
                Some(found) => found,
                None => call(name, None, &arguments),
            },
        };
        found.map_err(|problem| self.located(id, &problem))
    }

    fn comprehension<'s>(
        &self,
        comprehension: &ComprehensionExpr,
        scope: &Scope<'_, 's>,
    ) -> Result<Kind<'s>, String> {
        let range = &comprehension.iter_range;
        let kind = self.expression(range, scope)?;
        let Some((key, value)) = kind.elements() else {
            let problem = format!(
                "expression of type '{kind}' cannot be range of a comprehension (must be list, map, or dynamic)"
            );
            return Err(self.located(range.id, &problem));
        };
        let mut names: Vec<(&str, Kind<'s>)> = Vec::new();
        match &comprehension.iter_var2 {
            Some(second) => names.extend([
                (comprehension.iter_var.as_str(), key),
                (second.as_str(), value),
            ]),
            None if matches!(kind, Kind::List(_) | Kind::Dyn) => {
                names.push((comprehension.iter_var.as_str(), value));
            }
            None => names.push((comprehension.iter_var.as_str(), key)),
        }
        let began = self.expression(&comprehension.accu_init, scope)?;
        let accumulator = comprehension.accu_var.as_str();
        names.push((accumulator, began.clone()));
        let inner = Scope {
            names,
            outer: Some(scope),
        };
        self.expression(&comprehension.loop_cond, &inner)?;
        let step = self.expression(&comprehension.loop_step, &inner)?;
        // An empty list becomes a list of what is added to it.
        let result = match (&began, &step) {
            (Kind::List(_), Kind::List(_)) => step,
            _ => began,
        };
        let after = Scope {
            names: vec![(accumulator, result)],
            outer: Some(scope),
        };
        self.expression(&comprehension.result, &after)
    }

    /// A problem with its place, as CEL's compilers show it.
    fn located(&self, id: u64, problem: &str) -> String {
        if problem.starts_with("ERROR: ") {
            return problem.to_owned();
        }
        let info = self.code.program.source_info();
        let source = info.source.as_str();
        let offset = info.offset_for(id).map_or(0, |(start, _)| start as usize);
        let before = source.get(..offset).unwrap_or_default();
        let line = before.matches('\n').count();
        let column = before.chars().rev().take_while(|c| *c != '\n').count();
        let text = source.lines().nth(line).unwrap_or_default();
        let dots = ".".repeat(column);
        format!(
            "ERROR: <input>:{}:{}: {problem}\n | {text}\n | {dots}^",
            line + 1,
            column + 1
        )
    }
}

/// `sets.contains` of a call on what is no variable but a name of functions.
fn namespaced(target: &IdedExpr, function: &str, scope: &Scope<'_, '_>) -> Option<String> {
    let mut names = vec![function];
    let mut inner = &target.expr;
    loop {
        match inner {
            Expr::Select(select) if !select.test => {
                names.push(&select.field);
                inner = &select.operand.expr;
            }
            Expr::Ident(name) if scope.get(name).is_none() => {
                names.push(name);
                names.reverse();
                return Some(names.join("."));
            }
            _ => return None,
        }
    }
}

fn literal_kind(literal: &LiteralValue) -> Kind<'static> {
    Kind::Plain(match literal {
        LiteralValue::Boolean(_) => "bool",
        LiteralValue::Bytes(_) => "bytes",
        LiteralValue::Double(_) => "double",
        LiteralValue::Int(_) => "int",
        LiteralValue::Null => "null_type",
        LiteralValue::String(_) => "string",
        LiteralValue::UInt(_) => "uint",
    })
}

/// The type of an operator's result; `None` for what is no operator.
fn operator<'s>(
    name: &str,
    arguments: &[Kind<'s>],
    written: &[IdedExpr],
) -> Option<Result<Kind<'s>, String>> {
    let wrong = || Err(mismatch(name, None, arguments));
    let plain = |kind: &Kind<'_>| match kind {
        Kind::Plain(name) => *name,
        Kind::Dyn => "dyn",
        _ => "",
    };
    Some(match (name, arguments) {
        (operators::LOGICAL_AND | operators::LOGICAL_OR, [a, b]) => {
            if a.fits(&BOOL) && b.fits(&BOOL) {
                Ok(BOOL)
            } else {
                wrong()
            }
        }
        (operators::LOGICAL_NOT, [a]) => {
            if a.fits(&BOOL) {
                Ok(BOOL)
            } else {
                wrong()
            }
        }
        (operators::NOT_STRICTLY_FALSE, _) => Ok(BOOL),
        (operators::CONDITIONAL, [condition, a, b]) => {
            if condition.fits(&BOOL) && a.fits(b) {
                Ok(a.clone().join(b.clone()))
            } else {
                wrong()
            }
        }
        (operators::EQUALS | operators::NOT_EQUALS, [a, b]) => {
            if a.fits(b) || (a.is_number() && b.is_number()) {
                Ok(BOOL)
            } else {
                wrong()
            }
        }
        (
            operators::LESS
            | operators::LESS_EQUALS
            | operators::GREATER
            | operators::GREATER_EQUALS,
            [a, b],
        ) => match (plain(a), plain(b)) {
            ("dyn", _) | (_, "dyn") => Ok(BOOL),
            ("", _) | (_, "") | ("null_type", _) | (_, "null_type") => wrong(),
            (left, right) if left == right || (a.is_number() && b.is_number()) => Ok(BOOL),
            _ => wrong(),
        },
        (operators::ADD, [Kind::List(a), Kind::List(b)]) => {
            // What is added to nothing tells of what the list is.
            Ok(Kind::list(if **a == Kind::Dyn {
                (**b).clone()
            } else {
                (**a).clone().join((**b).clone())
            }))
        }
        (operators::ADD | operators::SUBSTRACT, [a, b]) => match (plain(a), plain(b)) {
            ("dyn", _) | (_, "dyn") => Ok(Kind::Dyn),
            (left @ ("int" | "uint" | "double"), right) if left == right => Ok(a.clone()),
            (left @ ("string" | "bytes"), right) if left == right && name == operators::ADD => {
                Ok(a.clone())
            }
            ("duration", "duration") => Ok(a.clone()),
            ("timestamp", "duration") => Ok(a.clone()),
            ("duration", "timestamp") if name == operators::ADD => Ok(b.clone()),
            ("timestamp", "timestamp") if name == operators::SUBSTRACT => {
                Ok(Kind::Plain("duration"))
            }
            _ => wrong(),
        },
        (operators::MULTIPLY | operators::DIVIDE | operators::MODULO, [a, b]) => {
            match (plain(a), plain(b)) {
                ("dyn", _) | (_, "dyn") => Ok(Kind::Dyn),
                ("int", "int") | ("uint", "uint") => Ok(a.clone()),
                ("double", "double") if name != operators::MODULO => Ok(a.clone()),
                _ => wrong(),
            }
        }
        (operators::NEGATE, [a]) => match plain(a) {
            "dyn" | "int" | "double" => Ok(a.clone()),
            _ => wrong(),
        },
        (operators::IN, [_, container]) => match container {
            Kind::Plain(_) | Kind::Optional(_) => wrong(),
            _ => Ok(BOOL),
        },
        (operators::INDEX, [container, index]) => indexed(container, index).map_or_else(wrong, Ok),
        (operators::OPT_INDEX, [container, index]) => {
            indexed(container, index).map_or_else(wrong, |kind| Ok(Kind::optional(kind)))
        }
        (operators::OPT_SELECT, [container, _]) => match written.get(1).map(|field| &field.expr) {
            Some(Expr::Literal(LiteralValue::String(field))) => {
                container.field(field.inner()).map(Kind::optional)
            }
            _ => Ok(Kind::optional(Kind::Dyn)),
        },
        _ => return None,
    })
}

fn indexed<'s>(container: &Kind<'s>, index: &Kind<'s>) -> Option<Kind<'s>> {
    match container {
        Kind::Dyn => Some(Kind::Dyn),
        Kind::List(items) => (*index == Kind::Dyn || *index == INT).then(|| (**items).clone()),
        Kind::Map(values) => Some((**values).clone()),
        Kind::Optional(inner) => indexed(inner, index).map(Kind::optional),
        Kind::Object(_) | Kind::Metadata => Some(Kind::Dyn),
        Kind::Plain(_) => None,
    }
}
