//! A request or a connection of TLS, of which `explain` is asked where it would go.

use underpass_core::explain::Asked;

/// A request over the connection, or the server name that it asks for.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Request {
    /// Explain a request as well, by the routes of the files (-f), of VirtualServices and of the Gateway API: its method.
    #[arg(long, value_name = "METHOD", value_parser = method, help_heading = HEADING)]
    pub(crate) method: Option<String>,
    /// Its path, with its query.
    #[arg(long, value_name = "PATH", value_parser = path, help_heading = HEADING)]
    pub(crate) path: Option<String>,
    /// A header of it; may be given more than once.
    #[arg(long, value_name = "NAME=VALUE", value_parser = header, help_heading = HEADING)]
    pub(crate) header: Vec<(String, String)>,
    /// Its authority; by default the destination as it is written.
    #[arg(long, value_name = "HOST[:PORT]", help_heading = HEADING)]
    pub(crate) authority: Option<String>,
    /// The server name that a connection of TLS asks for, by which routes of `tls` and TLSRoutes of the files (-f) choose.
    #[arg(long, value_name = "NAME", value_parser = server_name, conflicts_with_all = ["method", "path", "header", "authority"])]
    pub(crate) sni: Option<String>,
}

const HEADING: &str = "A request";

impl Request {
    /// The request; none: nothing of one is given.
    pub(crate) fn asked(&self) -> Option<Asked> {
        let is_given =
            self.method.is_some() || self.path.is_some() || !self.header.is_empty() || self.authority.is_some();
        is_given.then(|| Asked {
            method: self.method.clone().unwrap_or_else(|| "GET".to_owned()),
            path: self.path.clone().unwrap_or_else(|| "/".to_owned()),
            authority: self.authority.clone(),
            headers: self.header.clone(),
        })
    }
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

fn method(text: &str) -> Result<String, String> {
    if is_token(text) { Ok(text.to_owned()) } else { Err("a method is one word, such as GET".to_owned()) }
}

fn server_name(text: &str) -> Result<String, String> {
    let is_name = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    match is_name && text.parse::<std::net::IpAddr>().is_err() {
        true => Ok(text.to_ascii_lowercase()),
        false => Err("a server name is a name of DNS, no address and no wildcard".to_owned()),
    }
}

fn path(text: &str) -> Result<String, String> {
    if text.starts_with('/') { Ok(text.to_owned()) } else { Err("a path begins with /".to_owned()) }
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    if !is_token(name) {
        return Err(format!("{name:?} is not the name of a header"));
    }
    Ok((name.to_ascii_lowercase(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        request: Request,
    }

    #[test]
    fn what_is_asked() {
        let read = |more: &[&str]| Line::try_parse_from([&["x"], more].concat()).map(|line| line.request.asked());
        assert!(read(&[]).unwrap().is_none());
        let asked = read(&["--path", "/a?b", "--header", "End-User=a=b", "--header=x="]).unwrap().unwrap();
        assert_eq!((asked.method.as_str(), asked.path.as_str()), ("GET", "/a?b"));
        assert_eq!(asked.headers, [("end-user".into(), "a=b".into()), ("x".into(), String::new())]);
        assert_eq!(read(&["--method", "PUT"]).unwrap().unwrap().path, "/");
        assert_eq!(Line::parse_from(["x", "--sni", "A.example"]).request.sni.as_deref(), Some("a.example"));
        for bad in [["--sni=a", "--path=/"], ["--sni=a", "--method=GET"]] {
            assert!(read(&bad).is_err(), "{bad:?}");
        }
        for bad in [
            "--sni=",
            "--sni=*.a",
            "--sni=10.0.0.1",
            "--path=a",
            "--method=A B",
            "--method=",
            "--header=a",
            "--header==b",
            "--header=a b=c",
        ] {
            assert!(read(&[bad]).is_err(), "{bad}");
        }
    }
}
