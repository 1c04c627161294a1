//! The server name that a client of TLS asks for (RFC 6066, 3), read in passing: for routes of connections whose TLS ends elsewhere.
//!
//! What must hold: nothing is answered, and as much is read as a ClientHello is long.

use std::io;

use rustls::server::Acceptor;

/// What the first bytes of a connection say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// More of it is needed.
    Partial,
    /// The name, in lower case; none: the client names none.
    Name(Option<Box<str>>),
    /// It is no TLS.
    Other,
}

/// Reads the begin of one connection.
#[derive(Default)]
pub struct HelloReader(Acceptor);

impl std::fmt::Debug for HelloReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HelloReader").finish_non_exhaustive()
    }
}

impl HelloReader {
    /// Reads the bytes that follow those before.
    pub fn read(&mut self, mut bytes: &[u8]) -> Hello {
        while !bytes.is_empty() {
            let read: io::Result<usize> = self.0.read_tls(&mut bytes);
            if read.is_err() {
                return Hello::Other;
            }
            match self.0.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
                    return Hello::Name(name.map(Into::into));
                }
                Err(_) => return Hello::Other,
            }
        }
        Hello::Partial
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{ClientConfig, ClientConnection, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName};

    use super::*;

    /// The first bytes of a client that connects to this name.
    fn hello(name: &str) -> Vec<u8> {
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let mut client =
            ClientConnection::new(Arc::new(config), ServerName::try_from(name.to_owned()).unwrap()).unwrap();
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    #[test]
    fn names_by_whole_hellos_and_byte_by_byte() {
        for (name, expect) in [("A.Example", Some("a.example")), ("10.0.0.1", None)] {
            let (bytes, expect) = (hello(name), Hello::Name(expect.map(Into::into)));
            assert_eq!(HelloReader::default().read(&bytes), expect);
            let (last, first) = bytes.split_last().unwrap();
            let mut reader = HelloReader::default();
            assert!(first.iter().all(|byte| reader.read(&[*byte]) == Hello::Partial), "{name}");
            assert_eq!(reader.read(&[*last]), expect);
        }
    }

    #[test]
    fn what_is_no_tls() {
        let check = |bytes: &[u8], expect: Hello| assert_eq!(HelloReader::default().read(bytes), expect, "{bytes:?}");
        check(b"", Hello::Partial);
        check(b"\x16\x03\x01", Hello::Partial);
        check(b"GET / HTTP/1.1\r\n\r\n", Hello::Other);
        check(&[0x16, 3, 1, 0, 4, 2, 0, 0, 0], Hello::Other);
        check(&[0xff; 64], Hello::Other);
    }
}
