//! The errors of a call, as the CNI specification has them: numbers that runtimes know, and words for people.

use serde::Serialize;

/// The kind of an error, by the specification's numbers ("Error", CNI 1.1.0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The configuration is of a version that the plugin does not know.
    IncompatibleVersion = 1,
    /// A variable of the environment is missing or cannot be.
    InvalidEnvironment = 4,
    /// A file cannot be opened or read.
    Io = 5,
    /// The configuration, or the result of the plugins before, cannot be read.
    Decoding = 6,
    /// The configuration lacks something.
    InvalidConfiguration = 7,
    /// Another try may succeed.
    TryAgainLater = 11,
}

/// An error of a call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{msg} ({details})")]
pub struct Failure {
    /// Its kind.
    pub code: Code,
    /// What cannot be done, and why.
    pub msg: String,
    /// Where it comes from. Runtimes show it behind the message.
    pub details: String,
}

impl Failure {
    /// An error.
    #[must_use]
    pub fn new(code: Code, msg: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: details.into() }
    }

    /// The error as the runtime reads it, in this version of the specification.
    #[must_use]
    pub fn json(&self, version: &str) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Shape<'a> {
            cni_version: &'a str,
            code: u32,
            msg: &'a str,
            details: &'a str,
        }
        let shape = Shape { cni_version: version, code: self.code as u32, msg: &self.msg, details: &self.details };
        // Text and a number: there is nothing in it that JSON does not know.
        serde_json::to_string(&shape).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_pod_break_no_json() {
        let failure = Failure::new(Code::TryAgainLater, "pod \"a\",\n{\u{1}", "\\");
        let value: serde_json::Value = serde_json::from_str(&failure.json("1.0.0")).unwrap();
        let want =
            serde_json::json!({ "cniVersion": "1.0.0", "code": 11, "msg": "pod \"a\",\n{\u{1}", "details": "\\" });
        assert_eq!(value, want);
    }
}
