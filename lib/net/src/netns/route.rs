//! Policy routing of marked packets to lo: rules by mark bit, and a table whose only route makes every address local. Its
//! own file because these are the only changes of a pod's namespace.
//!
//! What must hold: every change is idempotent, so that a step can always be repeated.

use std::{io, net::IpAddr};

use super::Netns;
use crate::{
    netlink::{Attribute, Protocol, Request, Socket, attributes, fixed},
    system::SystemError,
};

// linux/rtnetlink.h
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const LIST_ROUTES: u16 = 26;
const NEW_RULE: u16 = 32;
const DELETE_RULE: u16 = 33;
const LIST_RULES: u16 = 34;
const TYPE_LOCAL: u8 = 2;
const SCOPE_HOST: u8 = 254;
const ORIGIN_STATIC: u8 = 4;
const ROUTE_DEVICE: u16 = 4;
const ROUTE_SOURCE: u16 = 7;
const ROUTE_TABLE: u16 = 15;
// linux/fib_rules.h
const TO_TABLE: u8 = 1;
const RULE_PRIORITY: u16 = 6;
const RULE_MARK: u16 = 10;
const RULE_TABLE: u16 = 15;
const RULE_MASK: u16 = 16;
/// `lo` in every namespace.
const LOOPBACK: u32 = 1;
/// Size of `struct rtmsg` and of `struct fib_rule_hdr`.
const HEADER_BYTES: usize = 12;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::V4 => libc::AF_INET as u8,
            Self::V6 => libc::AF_INET6 as u8,
        }
    }
}

/// `ip rule pref PRIORITY fwmark MARK/MARK lookup TABLE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Rules are evaluated in the order of this number.
    pub priority: u32,
    /// The bits of the packet's mark that must be set.
    pub mark: u32,
    /// The routing table that is looked up then.
    pub table: u32,
}

impl Rule {
    fn request(self, kind: u16, flags: u16, family: Family) -> Request {
        let header = [family.number(), 0, 0, 0, 0, 0, 0, TO_TABLE, 0, 0, 0, 0];
        Request::new(kind, flags, &header)
            .attribute(RULE_PRIORITY, &self.priority.to_ne_bytes())
            .attribute(RULE_MARK, &self.mark.to_ne_bytes())
            .attribute(RULE_MASK, &self.mark.to_ne_bytes())
            .attribute(RULE_TABLE, &self.table.to_ne_bytes())
    }

    fn parse(body: &[u8]) -> Option<Self> {
        let (mut priority, mut mark, mut mask, mut table) = (0, 0, 0, 0);
        for Attribute { kind, value } in attributes(body.get(HEADER_BYTES..)?) {
            let to = match kind {
                RULE_PRIORITY => &mut priority,
                RULE_MARK => &mut mark,
                RULE_MASK => &mut mask,
                RULE_TABLE => &mut table,
                _ => continue,
            };
            *to = u32::from_ne_bytes(fixed(value)?);
        }
        (mark != 0 && mark == mask).then_some(Self { priority, mark, table })
    }
}

/// Rules and routes. Of each family separately, because a namespace may lack one.
impl Netns {
    /// Adds a rule.
    pub fn add_rule(&self, family: Family, rule: Rule) -> Result<(), SystemError> {
        let request = rule.request(NEW_RULE, Request::CREATE | Request::EXCLUSIVE, family);
        self.route(request, &[libc::EEXIST]).map(drop).map_err(failed("add rule", rule))
    }

    /// Removes a rule, and its duplicates.
    pub fn remove_rule(&self, family: Family, rule: Rule) -> Result<(), SystemError> {
        while self.rules(family)?.contains(&rule) {
            let request = rule.request(DELETE_RULE, 0, family);
            self.route(request, &[libc::ENOENT]).map_err(failed("remove rule", rule))?;
        }
        Ok(())
    }

    /// The rules that match a mark bit.
    pub fn rules(&self, family: Family) -> Result<Vec<Rule>, SystemError> {
        let header = [family.number(), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let messages = self.dump(Request::new(LIST_RULES, Request::DUMP, &header));
        let messages = messages.map_err(failed("list rules of", family))?;
        Ok(messages.iter().filter_map(|body| Rule::parse(body)).collect())
    }

    /// Makes everything local in a table, with `source` as the address of what is sent by it:
    /// `local default dev lo src SOURCE table TABLE`.
    pub fn set_local_default(&self, table: u32, source: IpAddr) -> Result<(), SystemError> {
        let request = local_default(NEW_ROUTE, Request::CREATE | Request::REPLACE, table, Family::of(source));
        let request = match source {
            IpAddr::V4(ip) => request.attribute(ROUTE_SOURCE, &ip.octets()),
            IpAddr::V6(ip) => request.attribute(ROUTE_SOURCE, &ip.octets()),
        };
        self.route(request, &[]).map(drop).map_err(failed("add the local default route of", source))
    }

    /// Removes every such route of a table.
    pub fn remove_local_default(&self, family: Family, table: u32) -> Result<(), SystemError> {
        while !self.local_defaults(family, table)?.is_empty() {
            let request = local_default(DELETE_ROUTE, 0, table, family);
            self.route(request, &[libc::ESRCH]).map_err(failed("remove the local default route of table", table))?;
        }
        Ok(())
    }

    /// The source addresses of such routes of a table.
    pub fn local_defaults(&self, family: Family, table: u32) -> Result<Vec<IpAddr>, SystemError> {
        let header = [family.number(), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let messages = self.dump(Request::new(LIST_ROUTES, Request::DUMP, &header));
        let messages = messages.map_err(failed("list routes of", family))?;
        Ok(messages.iter().filter_map(|body| source_of_local_default(body, table)).collect())
    }

    /// Sends one request and returns false where it failed with one of `harmless`.
    pub(super) fn route(&self, request: Request, harmless: &[i32]) -> io::Result<bool> {
        let socket = self.route_socket()?;
        match socket.acknowledged(request) {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error().is_some_and(|code| harmless.contains(&code)) => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn dump(&self, request: Request) -> io::Result<Vec<Vec<u8>>> {
        self.route_socket()?.dump(request)
    }

    fn route_socket(&self) -> io::Result<Socket> {
        self.enter_here(|| Socket::open(Protocol::Route, 0))?
    }
}

fn local_default(kind: u16, flags: u16, table: u32, family: Family) -> Request {
    let header = [family.number(), 0, 0, 0, 0, ORIGIN_STATIC, SCOPE_HOST, TYPE_LOCAL, 0, 0, 0, 0];
    Request::new(kind, flags, &header)
        .attribute(ROUTE_TABLE, &table.to_ne_bytes())
        .attribute(ROUTE_DEVICE, &LOOPBACK.to_ne_bytes())
}

fn source_of_local_default(body: &[u8], wanted: u32) -> Option<IpAddr> {
    let [family, prefix, _, _, _, _, _, kind, ..] = fixed::<HEADER_BYTES>(body.get(..HEADER_BYTES)?)?;
    let (mut table, mut source) = (0, None);
    for Attribute { kind, value } in attributes(body.get(HEADER_BYTES..)?) {
        match kind {
            ROUTE_TABLE => table = u32::from_ne_bytes(fixed(value)?),
            ROUTE_SOURCE if family == Family::V4.number() => source = Some(IpAddr::from(fixed::<4>(value)?)),
            ROUTE_SOURCE => source = Some(IpAddr::from(fixed::<16>(value)?)),
            _ => {}
        }
    }
    source.filter(|_| prefix == 0 && kind == TYPE_LOCAL && table == wanted)
}

fn failed(operation: &'static str, object: impl std::fmt::Debug) -> impl FnOnce(io::Error) -> SystemError {
    move |source| SystemError::Netlink { operation, object: format!("{object:?}"), source }
}
