//! The configuration by which a runtime comes to the plugin: that of the primary plugin, which gives pods their addresses, with
//! ours behind it. Pure: text in, text out.
//!
//! It is a file of its own that sorts before the primary's, because a runtime takes the first of a sorted directory. The
//! primary's own file stays as it is: its program may write it anew at any time, and pods that start between that write and an
//! edit of ours would start without the mesh.

use std::{collections::BTreeSet, path::PathBuf};

use serde_json::Value;

use crate::{config::VERSIONS, object::Object};

/// The plugin's program, by which a configuration names it.
pub const PROGRAM: &str = "underpass-cni";
/// The name of our file, and the letter that comes before it until it is the first.
const NAME: &str = "00-00-underpass.conflist";
/// Before digits, letters and the hyphen, and no option of a command.
const FIRST: &str = "+";
/// The endings of configurations, as runtimes look for them.
const ENDINGS: [&str; 3] = [".conf", ".conflist", ".json"];

/// Our plugin in a configuration. Paths are the node's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugin {
    /// The agent's socket.
    pub socket: PathBuf,
    /// The file of the list of namespaces whose pods wait.
    pub namespaces: PathBuf,
    /// The namespaces whose pods never wait.
    pub exempt: BTreeSet<String>,
}

/// A file of the directory of configurations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its name.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// A primary's file that ours cannot follow.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// JSON.
    #[error("it is no configuration of CNI: {0}")]
    Json(#[from] serde_json::Error),
    /// No name of the network.
    #[error("it is no configuration of CNI: it has no `name`")]
    NoName,
    /// No plugin, or one without a type.
    #[error("it is no configuration of CNI: it has no plugin with a `type`")]
    NoPlugin,
    /// Plugins cannot be chained in it, or ours does not know it.
    #[error("its cniVersion is {0:?}, and underpass-cni speaks {all}", all = VERSIONS.join(", "))]
    Version(String),
    /// It has our plugin already.
    #[error("it names underpass-cni itself")]
    Named,
    /// Its name is before all of ours.
    #[error("no name of a file of ours sorts before it: rename it")]
    First,
}

/// Whether a file of this name is ours.
#[must_use]
pub fn is_own(name: &str) -> bool {
    name.trim_start_matches(FIRST) == NAME
}

/// The primary's file by the names of the directory: the one that a runtime takes where there is none of ours.
pub fn primary<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let configurations = names.into_iter().filter(|name| ENDINGS.iter().any(|ending| name.ends_with(ending)));
    configurations.filter(|name| !is_own(name)).min()
}

/// The name of our file beside a primary's.
///
/// # Errors
/// [`Error::First`].
pub fn name(primary: &str) -> Result<String, Error> {
    let mut names = (0..=primary.len()).map(|count| FIRST.repeat(count) + NAME);
    names.find(|name| name.as_str() < primary).ok_or(Error::First)
}

/// Our file beside the primary's.
///
/// # Errors
/// Where the primary's is no configuration, or one that our plugin cannot be chained in.
pub fn follow(primary: &File, plugin: &Plugin) -> Result<File, Error> {
    let name = name(&primary.name)?;
    let whole: Object = serde_json::from_str(&primary.text)?;
    let network: Option<String> = whole.read("name")?;
    if network.is_none_or(|network| network.is_empty()) {
        return Err(Error::NoName);
    }
    check_version(&whole)?;
    if names_us(&serde_json::from_str(&primary.text)?) {
        return Err(Error::Named);
    }
    // What a runtime makes of a file with a single plugin is a list of one, with the same name and version.
    let is_list = primary.name.ends_with(".conflist");
    let mut list = if is_list { whole.clone() } else { outline(&whole)? };
    let mut plugins: Vec<Object> = if is_list { whole.read("plugins")?.unwrap_or_default() } else { vec![whole] };
    let is_typed =
        |plugin: &Object| plugin.read("type").is_ok_and(|kind: Option<String>| kind.is_some_and(|k| !k.is_empty()));
    if plugins.is_empty() || !plugins.iter().all(is_typed) {
        return Err(Error::NoPlugin);
    }
    plugins.push(plugin.object()?);
    list.set("plugins", &plugins)?;
    Ok(File { name, text: serde_json::to_string_pretty(&list)? + "\n" })
}

/// The list around a single plugin.
fn outline(plugin: &Object) -> Result<Object, Error> {
    let mut list = Object::default();
    for field in ["cniVersion", "cniVersions", "name"] {
        if let Some(value) = plugin.raw(field) {
            list.set(field, value)?;
        }
    }
    Ok(list)
}

/// A runtime takes the newest version that a configuration offers.
fn check_version(whole: &Object) -> Result<(), Error> {
    let one: Option<String> = whole.read("cniVersion")?;
    let more: Option<Vec<String>> = whole.read("cniVersions")?;
    let numbers = |version: &String| version.split('.').map(|part| part.parse().unwrap_or(0)).collect::<Vec<u32>>();
    let newest = one.into_iter().chain(more.into_iter().flatten()).max_by_key(numbers).unwrap_or_default();
    if VERSIONS.contains(&newest.as_str()) { Ok(()) } else { Err(Error::Version(newest)) }
}

/// Whether our plugin is in a configuration, also inside of what another plugin delegates to: it would follow itself without end.
fn names_us(value: &Value) -> bool {
    match value {
        Value::Object(fields) => {
            fields.get("type").is_some_and(|kind| kind == PROGRAM) || fields.values().any(names_us)
        }
        Value::Array(items) => items.iter().any(names_us),
        _ => false,
    }
}

impl Plugin {
    /// Its place in a list of plugins.
    fn object(&self) -> Result<Object, Error> {
        let mut object = Object::default();
        object.set("type", &PROGRAM)?;
        object.set("socket", &self.socket)?;
        object.set("namespaces", &self.namespaces)?;
        object.set("exempt", &self.exempt)?;
        Ok(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NetworkConfig;

    fn plugin() -> Plugin {
        let exempt = ["underpass-system", "kube-system"].map(str::to_owned).into();
        Plugin { socket: "/run/underpass/cni.sock".into(), namespaces: "/var/lib/underpass/l.json".into(), exempt }
    }

    fn followed(name: &str, text: &str) -> Result<File, Error> {
        follow(&File { name: name.to_owned(), text: text.to_owned() }, &plugin())
    }

    #[test]
    fn our_plugin_is_the_last_and_all_else_stays() {
        const OURS: &str = r#"{"type":"underpass-cni","socket":"/run/underpass/cni.sock","namespaces":"/var/lib/underpass/l.json","exempt":["kube-system","underpass-system"]}"#;
        let check = |name: &str, text: &str, want: &str| {
            let file = followed(name, text).unwrap();
            assert_eq!(file.name, NAME);
            let compact: String = file.text.split_whitespace().collect();
            assert_eq!(compact, want.replace("OURS", OURS), "{name}");
        };
        check(
            "10-calico.conflist",
            r#"{"name":"k8s","cniVersion":"0.3.1","x":{"b":1.0,"a":2},"plugins":[{"type":"calico","z":1,"a":[]},{"type":"portmap"}],"disableCheck":true}"#,
            r#"{"name":"k8s","cniVersion":"0.3.1","x":{"b":1.0,"a":2},"plugins":[{"type":"calico","z":1,"a":[]},{"type":"portmap"},OURS],"disableCheck":true}"#,
        );
        check(
            "10-bridge.conf",
            r#"{"type":"bridge","cniVersion":"1.0.0","ipam":{"type":"host-local"},"name":"net"}"#,
            r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"bridge","cniVersion":"1.0.0","ipam":{"type":"host-local"},"name":"net"},OURS]}"#,
        );
        check(
            "a.json",
            r#"{"type":"x","cniVersion":"0.2.0","cniVersions":["1.1.0","0.4.0"],"name":"n"}"#,
            r#"{"cniVersion":"0.2.0","cniVersions":["1.1.0","0.4.0"],"name":"n","plugins":[{"type":"x","cniVersion":"0.2.0","cniVersions":["1.1.0","0.4.0"],"name":"n"},OURS]}"#,
        );
    }

    /// A runtime gives each plugin its own keys, and the version and result of the whole.
    #[test]
    fn the_plugin_reads_what_is_written() {
        let file = followed("a.conflist", r#"{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"x"}]}"#).unwrap();
        let list: Object = serde_json::from_str(&file.text).unwrap();
        let mut given = list.read::<Vec<Object>>("plugins").unwrap().unwrap().pop().unwrap();
        given.set("cniVersion", &"1.0.0").unwrap();
        let read = NetworkConfig::parse(serde_json::to_string(&given).unwrap().as_bytes()).unwrap();
        let Plugin { socket, namespaces, exempt } = plugin();
        assert_eq!((read.socket, read.namespaces, read.exempt), (socket, namespaces, exempt));
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        let check = |name: &str, text: &str, says: &str| {
            let error = followed(name, text).unwrap_err().to_string();
            assert!(error.contains(says), "{name} {text}: {error}");
        };
        check("a.conflist", "", "no configuration of CNI: EOF");
        check("a.conflist", r#"{"name":"n","#, "no configuration of CNI: EOF");
        check("a.conflist", "[]", "no configuration of CNI: invalid type");
        check("a.conflist", r#"{"cniVersion":"1.0.0","plugins":[{"type":"x"}]}"#, "no `name`");
        check("a.conflist", r#"{"name":"","cniVersion":"1.0.0","plugins":[{"type":"x"}]}"#, "no `name`");
        for plugins in
            ["", r#","plugins":[]"#, r#","plugins":[{}]"#, r#","type":"x""#, r#","plugins":[{"type":"x"},{"type":1}]"#]
        {
            check("a.conflist", &format!(r#"{{"name":"n","cniVersion":"1.0.0"{plugins}}}"#), "no plugin");
        }
        check("a.conf", r#"{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"x"}]}"#, "no plugin");
        check("a.conflist", r#"{"name":"n","plugins":[{"type":"x"}]}"#, "cniVersion is \"\"");
        check(
            "a.conf",
            r#"{"name":"n","cniVersion":"0.3.0","type":"x"}"#,
            "cniVersion is \"0.3.0\", and underpass-cni speaks 0.3.1, ",
        );
        check(
            "a.conf",
            r#"{"name":"n","cniVersion":"1.0.0","cniVersions":["10.0.0","2.0.0"],"type":"x"}"#,
            "is \"10.0.0\"",
        );
        check("a.conf", r#"{"name":"n","cniVersion":"1.0.0","type":"underpass-cni"}"#, "names underpass-cni itself");
        let delegates =
            r#"{"name":"n","cniVersion":"1.0.0","type":"multus","delegates":[{"plugins":[{"type":"underpass-cni"}]}]}"#;
        check("a.conf", delegates, "names underpass-cni itself");
        check(
            "!a.conf",
            r#"{"name":"n","cniVersion":"1.0.0","type":"x"}"#,
            "no name of a file of ours sorts before it",
        );
    }

    #[test]
    fn our_file_is_the_first() {
        for (primary, want) in [
            ("10-calico.conflist", "00-00-underpass.conflist"),
            ("00-multus.conf", "00-00-underpass.conflist"),
            ("z.json", "00-00-underpass.conflist"),
            ("00-00-a.conflist", "+00-00-underpass.conflist"),
            ("0-a.conflist", "+00-00-underpass.conflist"),
            ("-a.conf", "+00-00-underpass.conflist"),
            (".conf", "+00-00-underpass.conflist"),
            ("+a.conf", "+00-00-underpass.conflist"),
            ("+.conf", "++00-00-underpass.conflist"),
            ("++00-00-a.conf", "+++00-00-underpass.conflist"),
        ] {
            let name = name(primary).unwrap();
            assert_eq!(name, want, "{primary}");
            assert!(name.as_str() < primary && is_own(&name), "{primary}");
        }
        for primary in ["!a.conf", " .conf", "+!.conf"] {
            assert!(matches!(name(primary), Err(Error::First)), "{primary}");
        }
    }

    #[test]
    fn the_primarys_file_is_the_first_of_all_but_ours() {
        let check = |names: &[&str], want: Option<&str>| assert_eq!(primary(names.iter().copied()), want, "{names:?}");
        check(
            &["10-b.conf", "00-00-underpass.conflist", "10-a.conflist", "+00-00-underpass.conflist"],
            Some("10-a.conflist"),
        );
        check(&["99-loopback.conf", "B.json", "a.json"], Some("99-loopback.conf"));
        check(&["05-cilium.conflist.cilium_bak", ".00-00-underpass.conflist.new", "x.yaml", "conf"], None);
        check(&["00-00-underpass.conflist"], None);
        check(&["00-00-underpass.conf"], Some("00-00-underpass.conf"));
    }
}
