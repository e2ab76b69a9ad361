//! CEL expressions that see variables of their owner's choosing, as admission policies have them. They are bounded as the
//! rules of custom kinds are: in length and depth when they are compiled, and by what they are given before they run.

use std::cell::OnceCell;
use std::collections::HashMap;

use cel::objects::{Key, Map};
use cel::{Context, Value as CelValue};
use serde_json::Value;

use super::compile::{self, Code};
use super::convert::convert;
use super::evaluate::Size;
use super::kind::{BOOL, Kind, STRING};
use super::{library, typed};
use crate::schema::Schema;

/// Steps that the expressions of one policy may take together on one request, as far as that can be told beforehand.
const BUDGET: u64 = 10_000_000;
/// Values and characters that a variable may come to.
const MAX_VARIABLE: u64 = 4 << 20;
/// The name under which expressions find what was defined before them.
const VARIABLES: &str = "variables";

/// What an expression comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Returns {
    Anything,
    Bool,
    Text,
    TextOrNull,
}

/// A variable that expressions see: its name, and the schema of what is known of it.
pub(crate) type Known<'s> = (&'static str, &'s Schema);

/// A compiled expression.
#[derive(Debug, Clone)]
pub(crate) struct Expression {
    pub(crate) text: String,
    code: Code,
    /// Variables that it reads.
    reads: Vec<String>,
}

impl Expression {
    /// Compiles an expression that sees `known` and the variables in `defined`; says what is wrong with it otherwise.
    pub(crate) fn compile(
        text: &str,
        known: &[Known<'_>],
        defined: &Schema,
        returns: Returns,
    ) -> Result<Self, String> {
        let code =
            compile::compile(text).map_err(|error| format!("compilation failed: {error}"))?;
        let mut names: Vec<(&str, Kind<'_>)> = known
            .iter()
            .map(|(name, schema)| (*name, Kind::of(schema, false)))
            .collect();
        if !defined.properties.is_empty() {
            names.push((VARIABLES, Kind::of(defined, false)));
        }
        let found = typed::type_of(&code, names)?;
        let fits = |wanted: &[&Kind<'_>]| {
            wanted.iter().any(|kind| found == kind.to_string()) || found == "dyn"
        };
        let refused = match returns {
            Returns::Anything => None,
            Returns::Bool => (!fits(&[&BOOL])).then_some("must evaluate to bool"),
            Returns::Text => (!fits(&[&STRING])).then_some("must evaluate to string"),
            Returns::TextOrNull => (!fits(&[&STRING, &Kind::Plain("null_type")]))
                .then_some("must evaluate to one of [string null_type]"),
        };
        if let Some(refused) = refused {
            return Err(refused.to_owned());
        }
        let reads = code.program.references();
        let reads = known
            .iter()
            .map(|(name, _)| *name)
            .chain([VARIABLES])
            .filter(|name| reads.has_variable(name))
            .map(str::to_owned)
            .collect();
        Ok(Self {
            text: text.to_owned(),
            code,
            reads,
        })
    }

    /// Whether it reads this one of the variables that were defined before.
    fn mentions(&self, variable: &str) -> bool {
        self.reads.iter().any(|name| name == VARIABLES)
            && self.text.contains(&format!("{VARIABLES}.{variable}"))
    }
}

/// A value that expressions may read, with its schema. It is converted when the first one does.
#[derive(Debug)]
pub(crate) struct Given<'a> {
    pub(crate) name: &'static str,
    pub(crate) value: &'a Value,
    pub(crate) schema: &'a Schema,
    size: OnceCell<Size>,
}

impl<'a> Given<'a> {
    pub(crate) fn new(name: &'static str, value: &'a Value, schema: &'a Schema) -> Self {
        Self {
            name,
            value,
            schema,
            size: OnceCell::new(),
        }
    }
}

/// The expressions of one policy on one request.
pub(crate) struct Run<'a> {
    given: Vec<Given<'a>>,
    bound: Vec<&'static str>,
    context: Context<'static, 'static>,
    defined: HashMap<Key, CelValue>,
    /// Variables that came to nothing, and why.
    failed: Vec<(String, String)>,
    budget: u64,
    /// The deepest loops by which a variable was made, and whether one may be as long as a string.
    loops: u32,
    splits: bool,
}

impl<'a> Run<'a> {
    pub(crate) fn new(given: Vec<Given<'a>>) -> Self {
        Self {
            given,
            bound: Vec::new(),
            context: Context::with_env(library::environment()),
            defined: HashMap::new(),
            failed: Vec::new(),
            budget: BUDGET,
            loops: 0,
            splits: false,
        }
    }

    /// Makes what an expression comes to a variable for those that follow. What goes wrong is said by whoever reads it.
    pub(crate) fn define(&mut self, name: &str, expression: &Expression) {
        let value = self.evaluate(expression).and_then(|value| {
            let mut left = MAX_VARIABLE;
            match measure(&value, &mut left) {
                true => Ok(value),
                false => Err("it comes to more than 4 MiB".to_owned()),
            }
        });
        match value {
            Ok(value) => {
                self.defined.insert(Key::from(name), value);
                let deeper = expression.code.loops.max(1).saturating_mul(self.loops);
                self.loops = match expression.reads.iter().any(|name| name == VARIABLES) {
                    true => self.loops.max(expression.code.loops.saturating_add(deeper)),
                    false => self.loops.max(expression.code.loops),
                };
                self.splits |= expression.code.splits;
            }
            Err(error) => self.failed.push((name.to_owned(), error)),
        }
        let all = CelValue::Map(Map {
            map: self.defined.clone().into(),
        });
        self.context.add_variable_from_value(VARIABLES, all);
    }

    /// What an expression comes to.
    pub(crate) fn evaluate(&mut self, expression: &Expression) -> Result<CelValue, String> {
        for given in &self.given {
            let wanted = expression.reads.iter().any(|name| name == given.name);
            if wanted && !self.bound.contains(&given.name) {
                let value = convert(given.value, given.schema, false);
                self.context.add_variable_as_val(given.name, value);
                self.bound.push(given.name);
            }
        }
        if !self.bound.contains(&VARIABLES) {
            let none = CelValue::Map(Map {
                map: HashMap::new().into(),
            });
            self.context.add_variable_from_value(VARIABLES, none);
            self.bound.push(VARIABLES);
        }
        self.charge(expression)?;
        let done = expression.code.program.execute(&self.context);
        done.map_err(|error| {
            let failed = self.failed.iter();
            let failed = failed
                .filter(|(name, _)| expression.mentions(name))
                .map(|(name, why)| format!("composited variable {name:?} fails to evaluate: {why}"))
                .next();
            failed.unwrap_or_else(|| error.to_string())
        })
    }

    /// Takes what an expression may cost from the budget.
    fn charge(&mut self, expression: &Expression) -> Result<(), String> {
        let variables = expression.reads.iter().any(|name| name == VARIABLES);
        // Through a variable, everything that was given may be read.
        let read = |given: &&Given<'_>| variables || self.bound.contains(&given.name);
        let mut size = Size::default();
        for given in self.given.iter().filter(read) {
            size.add(given.size.get_or_init(|| Size::of(given.value)));
        }
        let mut code = expression.code.clone();
        if variables {
            code.splits |= self.splits;
            code.loops = code.loops.saturating_mul(self.loops.max(1));
        }
        match self.budget.checked_sub(size.cost(&code)) {
            Some(left) => {
                self.budget = left;
                Ok(())
            }
            None => Err(
                "the expressions of the policy would exceed their cost budget on an object of this size"
                    .to_owned(),
            ),
        }
    }
}

impl std::fmt::Debug for Run<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run")
            .field("bound", &self.bound)
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}

/// Counts a value's parts and characters; false when they are more than `left`.
fn measure(value: &CelValue, left: &mut u64) -> bool {
    let own = match value {
        CelValue::String(text) => text.len() as u64,
        CelValue::Bytes(bytes) => bytes.len() as u64,
        _ => 1,
    };
    match left.checked_sub(own) {
        Some(rest) => *left = rest,
        None => return false,
    }
    match value {
        CelValue::List(items) => items.iter().all(|item| measure(item, left)),
        CelValue::Map(map) => map.map.values().all(|value| measure(value, left)),
        _ => true,
    }
}

/// The words that an expression came to: nothing when they are empty, too long or of several lines.
pub(crate) fn words(value: &CelValue, most: usize) -> Option<String> {
    let CelValue::String(text) = value else {
        return None;
    };
    let fits = !text.trim().is_empty() && text.len() <= most && !text.contains('\n');
    fits.then(|| text.trim().to_owned())
}
