//! From a rule's text to a program.

use std::fmt;
use std::sync::Arc;

use cel::IdedExpr;
use cel::Program;
use cel::common::ast::{EntryExpr, Expr, operators};
use serde_json::Value;

use super::library;

/// Characters of a rule at most.
const MAX_LENGTH: usize = 8 << 10;
/// Nesting of a rule's syntax tree at most.
const MAX_DEPTH: usize = 200;
/// The parser recurses far deeper than the tree it makes.
pub(super) const STACK: usize = 64 << 20;

/// An entry of `x-kubernetes-validations`, compiled.
#[derive(Debug, Clone)]
pub(crate) struct CompiledRule {
    pub(super) text: String,
    pub(super) program: Code,
    pub(super) message: Option<String>,
    pub(super) message_expression: Option<Code>,
    pub(super) reason: &'static str,
    pub(super) field_path: Option<String>,
    pub(super) optional_old_self: bool,
}

/// A program with what is known of its cost.
#[derive(Clone)]
pub(super) struct Code {
    pub(super) program: Arc<Program>,
    /// Loops within loops.
    pub(super) loops: u32,
    /// It may make lists as long as its strings.
    pub(super) splits: bool,
    /// It reads whole strings, perhaps once per step.
    pub(super) scans: bool,
    /// It compares with the object before the write.
    pub(super) uses_old: bool,
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Code")
            .field("loops", &self.loops)
            .field("uses_old", &self.uses_old)
            .finish_non_exhaustive()
    }
}

/// Why a rule was refused: the field of the entry, and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RuleError {
    pub(crate) field: &'static str,
    pub(crate) message: String,
}

impl CompiledRule {
    /// Compiles an entry.
    pub(crate) fn parse(entry: &Value) -> Result<Self, RuleError> {
        let text = |name: &str| entry[name].as_str().map(String::from);
        let error = |field, message: String| RuleError { field, message };
        let rule = text("rule").filter(|rule| !rule.trim().is_empty());
        let rule = rule.ok_or_else(|| error("rule", "required value".into()))?;
        let program = compile(&rule).map_err(|message| error("rule", message))?;
        let message_expression = match text("messageExpression") {
            None => None,
            Some(expression) => {
                let code = compile(&expression).map_err(|m| error("messageExpression", m))?;
                Some(code)
            }
        };
        let optional_old_self = entry["optionalOldSelf"].as_bool().unwrap_or(false);
        if optional_old_self && !program.uses_old {
            return Err(error(
                "optionalOldSelf",
                "may only be set for rules that use oldSelf".into(),
            ));
        }
        Ok(Self {
            text: rule,
            program,
            message: text("message"),
            message_expression,
            reason: match text("reason").as_deref() {
                None | Some("FieldValueInvalid") => "FieldValueInvalid",
                Some("FieldValueForbidden") => "FieldValueForbidden",
                Some("FieldValueRequired") => "FieldValueRequired",
                Some("FieldValueDuplicate") => "FieldValueDuplicate",
                Some(other) => {
                    return Err(error("reason", format!("unsupported value `{other}`")));
                }
            },
            field_path: text("fieldPath"),
            optional_old_self,
        })
    }
}

pub(super) fn compile(text: &str) -> Result<Code, String> {
    if text.len() > MAX_LENGTH {
        return Err(format!("longer than {MAX_LENGTH} characters"));
    }
    let text = text.to_owned();
    let thread = std::thread::Builder::new()
        .name("rule-compiler".into())
        .stack_size(STACK)
        .spawn(move || {
            let program = library::environment()
                .compile(&text)
                .map_err(|errors| errors.to_string())?;
            let shape = Shape::of(program.expression(), 0)?;
            let references = program.references();
            let uses_old = references.has_variable("oldSelf");
            let uses = |names: &[&str]| names.iter().any(|name| references.has_function(name));
            let (splits, scans) = (uses(&["split", "findAll"]), uses(SCANS));
            Ok(Code {
                program: Arc::new(program),
                loops: shape.loops,
                splits,
                scans,
                uses_old,
            })
        })
        .map_err(|error| format!("cannot start a thread to compile it: {error}"))?;
    thread
        .join()
        .unwrap_or_else(|_| Err("the expression is malformed".into()))
}

/// What counts for the cost of an expression.
struct Shape {
    loops: u32,
}

impl Shape {
    /// Fails if the tree is too deep to be evaluated safely.
    fn of(expression: &IdedExpr, depth: usize) -> Result<Self, String> {
        if depth > MAX_DEPTH {
            return Err(format!("nested more than {MAX_DEPTH} deep"));
        }
        let mut loops = 0;
        let mut visit = |inner: &IdedExpr, extra: u32| {
            let shape = Self::of(inner, depth + 1)?;
            loops = loops.max(shape.loops + extra);
            Ok::<(), String>(())
        };
        match &expression.expr {
            Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => {}
            Expr::Select(select) => visit(&select.operand, 0)?,
            Expr::Call(call) => {
                let extra = hidden_loops(&call.func_name);
                for inner in call.target.as_deref().into_iter().chain(&call.args) {
                    visit(inner, extra)?;
                }
            }
            Expr::List(list) => {
                for inner in &list.elements {
                    visit(inner, 0)?;
                }
            }
            Expr::Map(map) => {
                for entry in &map.entries {
                    visit_entry(&entry.expr, &mut visit)?;
                }
            }
            Expr::Struct(structure) => {
                for entry in &structure.entries {
                    visit_entry(&entry.expr, &mut visit)?;
                }
            }
            Expr::Comprehension(comprehension) => {
                // What a loop runs over may itself be longer than the object, by a loop's worth.
                visit(&comprehension.iter_range, 1)?;
                visit(&comprehension.accu_init, 0)?;
                visit(&comprehension.loop_cond, 1)?;
                visit(&comprehension.loop_step, 1)?;
                visit(&comprehension.result, 0)?;
            }
        }
        Ok(Self { loops })
    }
}

/// Loops within a function, over lists that it is given.
fn hidden_loops(function: &str) -> u32 {
    match function {
        operators::IN | "sum" | "isSorted" | "join" | "min" | "max" | "indexOf" | "lastIndexOf" => {
            1
        }
        "sets.contains" | "sets.intersects" | "sets.equivalent" => 2,
        _ => 0,
    }
}

/// Functions that read whole strings.
const SCANS: &[&str] = &[
    "matches",
    "contains",
    "startsWith",
    "endsWith",
    "find",
    "findAll",
    "split",
    "replace",
    "indexOf",
    "lastIndexOf",
    "lowerAscii",
    "upperAscii",
    "substring",
    "trim",
    "size",
    "validate",
];

fn visit_entry(
    entry: &EntryExpr,
    visit: &mut impl FnMut(&IdedExpr, u32) -> Result<(), String>,
) -> Result<(), String> {
    match entry {
        EntryExpr::StructField(field) => visit(&field.value, 0),
        EntryExpr::MapEntry(entry) => {
            visit(&entry.key, 0)?;
            visit(&entry.value, 0)
        }
    }
}
