//! The name of an image, `NAME:TAG`, as a user types it and as a container runtime has it.

/// A name with a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    name: String,
    tag: String,
}

impl Reference {
    /// Parses `underpass:0.1.0` or `registry.example:5000/mesh/underpass:0.1.0`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let colon = text.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'));
        let (name, tag) = colon.ok_or_else(|| format!("`{text}` has no tag: NAME:TAG"))?;
        let letters = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if tag.is_empty() || tag.len() > 128 || tag.starts_with(['.', '-']) || !tag.chars().all(letters) {
            return Err(format!("`{tag}` is no tag: letters, digits, `_`, `.` and `-`, 128 at most"));
        }
        let path = host(name).map_or(name, |host| &name[host.len() + 1..]);
        let small = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let part = |part: &str| {
            part.starts_with(small) && part.ends_with(small) && part.chars().all(|c| small(c) || "_.-".contains(c))
        };
        if !path.split('/').all(part) {
            return Err(format!("`{name}` is no name of an image: [HOST[:PORT]/]name, in small letters"));
        }
        Ok(Self { name: name.to_owned(), tag: tag.to_owned() })
    }

    /// As it was typed, which is what `docker load` shows.
    pub(crate) fn short(&self) -> String {
        format!("{}:{}", self.name, self.tag)
    }

    /// With its registry, as containerd stores it and a kubelet looks for it.
    pub(crate) fn full(&self) -> String {
        match (host(&self.name), self.name.contains('/')) {
            (Some(_), _) => self.short(),
            (None, true) => format!("docker.io/{}", self.short()),
            (None, false) => format!("docker.io/library/{}", self.short()),
        }
    }

    /// The part behind the colon.
    pub(crate) fn tag(&self) -> &str {
        &self.tag
    }
}

/// The registry: the part before the first `/`, if it looks like a host.
fn host(name: &str) -> Option<&str> {
    let (first, _) = name.split_once('/')?;
    (first == "localhost" || first.contains(['.', ':'])).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_as_runtimes_do() {
        for (text, want) in [
            ("underpass:0.1.0", "docker.io/library/underpass:0.1.0"),
            ("mesh/underpass:1", "docker.io/mesh/underpass:1"),
            ("localhost/underpass:1", "localhost/underpass:1"),
            ("registry.example:5000/a/b-c:v1", "registry.example:5000/a/b-c:v1"),
        ] {
            let reference = Reference::parse(text).unwrap();
            assert_eq!((reference.full().as_str(), reference.short().as_str()), (want, text));
        }
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for (text, want) in [
            ("underpass", "no tag"),
            ("registry.example:5000/underpass", "no tag"),
            ("underpass:", "is no tag"),
            ("underpass:a b", "is no tag"),
            ("Underpass:1", "no name"),
            ("a//b:1", "no name"),
            (":1", "no name"),
            ("registry.example/:1", "no name"),
            ("underpass@sha256:00", "no name"),
        ] {
            let error = Reference::parse(text).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
