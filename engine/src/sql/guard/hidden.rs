//! Columns of a source that people do not see unless they name them.
//!
//! A table has no such thing. So a source has them only in a query that names one, and there `*` is read as all but them,
//! where it stands for one source. (Over a join they are among its columns then.)

use std::ops::ControlFlow;

use sqlparser::ast::{
    ExcludeSelectItem, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, Query, Select,
    SelectItem, TableFactor, VisitMut, VisitorMut, WildcardAdditionalOptions,
};
use sqlparser::tokenizer::{Token, TokenWithSpan};

use crate::recent::HIDDEN_OF_TABLE;
use crate::sql::statement::normal;

/// Whether a text names one.
pub fn named(tokens: &[TokenWithSpan]) -> bool {
    tokens.iter().any(|token| match &token.token {
        Token::Word(word) => HIDDEN_OF_TABLE.iter().any(|hidden| word.value.eq_ignore_ascii_case(hidden)),
        _ => false,
    })
}

/// Takes them out of every `*` that stands for one source.
pub fn keep_hidden(query: &mut Query, sources: &[&str]) {
    let mut keeping = Keeping { sources, ctes: Vec::new() };
    let _: ControlFlow<()> = VisitMut::visit(query, &mut keeping);
}

struct Keeping<'a> {
    sources: &'a [&'a str],
    /// Names that may stand for something else.
    ctes: Vec<String>,
}

impl VisitorMut for Keeping<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        let ctes = query.with.iter().flat_map(|with| &with.cte_tables);
        self.ctes.extend(ctes.map(|cte| normal(&cte.alias.name)));
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        let [table] = select.from.as_slice() else { return ControlFlow::Continue(()) };
        if table.joins.is_empty() && self.is_source(&table.relation) {
            for item in &mut select.projection {
                if let SelectItem::Wildcard(options) | SelectItem::QualifiedWildcard(_, options) = item {
                    exclude(options);
                }
            }
        }
        ControlFlow::Continue(())
    }
}

impl Keeping<'_> {
    fn is_source(&self, factor: &TableFactor) -> bool {
        let named = |name: &ObjectName| {
            let last = name.0.last().and_then(|part| part.as_ident());
            last.is_some_and(|ident| {
                self.sources.contains(&normal(ident).as_str()) && !self.ctes.contains(&normal(ident))
            })
        };
        let first = |args: &[FunctionArg]| {
            let value = args.first().map(|arg| match arg {
                FunctionArg::Unnamed(value)
                | FunctionArg::Named { arg: value, .. }
                | FunctionArg::ExprNamed { arg: value, .. } => value,
            });
            match value {
                Some(FunctionArgExpr::Expr(Expr::Identifier(ident))) => named(&ObjectName::from(vec![ident.clone()])),
                _ => false,
            }
        };
        match factor {
            TableFactor::Table { args: Some(args), .. } => first(&args.args),
            TableFactor::Table { name, .. } => named(name),
            TableFactor::Function { args, .. } => first(args),
            TableFactor::TableFunction { expr: Expr::Function(function), .. } => match &function.args {
                FunctionArguments::List(list) => first(&list.args),
                _ => false,
            },
            _ => false,
        }
    }
}

fn exclude(options: &mut WildcardAdditionalOptions) {
    let hidden = HIDDEN_OF_TABLE.iter().map(|name| ObjectName::from(vec![Ident::with_quote('"', *name)]));
    let own = match options.opt_exclude.take() {
        Some(ExcludeSelectItem::Single(name)) => vec![name],
        Some(ExcludeSelectItem::Multiple(names)) => names,
        None => Vec::new(),
    };
    let is_other = |hidden: &ObjectName| {
        !own.iter().any(|name| name.to_string().trim_matches('"') == hidden.to_string().trim_matches('"'))
    };
    let hidden: Vec<ObjectName> = hidden.filter(is_other).collect();
    options.opt_exclude = Some(ExcludeSelectItem::Multiple(own.into_iter().chain(hidden).collect()));
}
