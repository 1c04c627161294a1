//! Why a text is no format of lines.

/// A format that cannot be used: where, which operator, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("accessLogFormat{}, character {at}: {text}: {problem}", key.as_ref().map(|key| format!(" {key}")).unwrap_or_default())]
pub struct LineFormatError {
    /// The key of the JSON object whose text it is.
    pub key: Option<String>,
    /// The character of that text at which it begins, from 1.
    pub at: usize,
    /// The operator, or the text up to its end.
    pub text: String,
    /// What is wrong with it.
    pub problem: LineFormatProblem,
}

/// What is wrong with an operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineFormatProblem {
    /// No `%` ends it.
    #[error("no % ends the operator (a % of the text is written %%)")]
    NotClosed,
    /// Envoy has none of this name.
    #[error("there is no such operator")]
    Unknown,
    /// It has none in parentheses.
    #[error("it takes nothing in parentheses")]
    TakesNothing,
    /// It has no length.
    #[error("it takes no length")]
    TakesNoLength,
    /// It needs the name of a header.
    #[error("it wants the name of a header in parentheses: (X) or (X?Y)")]
    NoHeader,
    /// What stands in parentheses is not one of those that it takes.
    #[error("it takes {0} in parentheses")]
    Takes(&'static str),
    /// A specifier of times that strftime has not.
    #[error("{0} is no specifier of a time")]
    Time(String),
    /// The format of JSON is no JSON object.
    #[error("with accessLogEncoding JSON the format is a JSON object: {0}")]
    NotJson(String),
}
