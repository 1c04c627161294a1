//! A foreign eBPF program at connect(): it turns connections to one IPv4 address into connections to another, as
//! a cluster network's socket load balancer does. Written as instructions, so that it needs no compiler and shares no
//! code with the programs under test.

#![allow(unsafe_code, reason = "attributes of bpf() hold addresses of buffers")]

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use anyhow::{Context, Result};

use crate::testbed::sys;

/// include/uapi/linux/bpf.h
const BPF_PROG_LOAD: i32 = 5;
const BPF_PROG_ATTACH: i32 = 8;
const BPF_LINK_CREATE: i32 = 28;
const BPF_PROG_TYPE_CGROUP_SOCK_ADDR: u32 = 18;
const BPF_CGROUP_INET4_CONNECT: u32 = 10;
/// Offsets in struct bpf_sock_addr.
const USER_IP4: i16 = 4;
const USER_PORT: i16 = 24;

/// The name of the programs.
pub const NAME: &str = "a_load_balancer";

/// One instruction: opcode, destination and source register, offset, immediate value.
fn instruction(opcode: u8, to: u8, from: u8, offset: i16, value: u32) -> [u8; 8] {
    let ([o1, o2], [v1, v2, v3, v4]) = (offset.to_ne_bytes(), value.to_ne_bytes());
    [opcode, from << 4 | to, o1, o2, v1, v2, v3, v4]
}

fn rewriter(from: Ipv4Addr, to: SocketAddrV4) -> Vec<u8> {
    let network = |ip: Ipv4Addr| u32::from_ne_bytes(ip.octets());
    let port = u32::from(to.port().to_be());
    [
        instruction(0x61, 2, 1, USER_IP4, 0),          // r2 = ctx->user_ip4
        instruction(0xb4, 3, 0, 0, network(from)),     // w3 = from
        instruction(0x5d, 2, 3, 4, 0),                 // if r2 != r3 goto +4
        instruction(0xb4, 3, 0, 0, network(*to.ip())), // w3 = to
        instruction(0x63, 1, 3, USER_IP4, 0),          // ctx->user_ip4 = w3
        instruction(0xb4, 3, 0, 0, port),              // w3 = port
        instruction(0x63, 1, 3, USER_PORT, 0),         // ctx->user_port = w3
        instruction(0xb7, 0, 0, 0, 1),                 // r0 = 1: go on
        instruction(0x95, 0, 0, 0, 0),                 // exit
    ]
    .concat()
}

/// The link of an attached program; it is gone when this is dropped.
#[derive(Debug)]
pub struct Rewriter {
    _link: OwnedFd,
}

impl Rewriter {
    /// Attaches at `cgroup`: after programs that are there or below.
    pub fn attach(cgroup: &Path, from: Ipv4Addr, to: SocketAddrV4) -> Result<Self> {
        let program = load(&rewriter(from, to))?;
        let directory = File::open(cgroup).with_context(|| format!("open cgroup {}", cgroup.display()))?;
        let mut attach = [0_u8; 64];
        put(&mut attach, 0, &program.as_raw_fd().to_ne_bytes());
        put(&mut attach, 4, &directory.as_raw_fd().to_ne_bytes());
        put(&mut attach, 8, &BPF_CGROUP_INET4_CONNECT.to_ne_bytes());
        // SAFETY: holds descriptors and numbers, no addresses.
        let link = unsafe { sys::bpf(BPF_LINK_CREATE, &attach) }.context("attach the foreign program")?;
        Ok(Self { _link: link })
    }
}

/// A program that changes nothing and, attached without any flag, lets no other one be attached beside or below it. It is gone with its
/// cgroup.
pub fn attach_alone(cgroup: &Path) -> Result<()> {
    let program = load(&[instruction(0xb7, 0, 0, 0, 1), instruction(0x95, 0, 0, 0, 0)].concat())?;
    let directory = File::open(cgroup).with_context(|| format!("open cgroup {}", cgroup.display()))?;
    let mut attach = [0_u8; 64];
    put(&mut attach, 0, &directory.as_raw_fd().to_ne_bytes());
    put(&mut attach, 4, &program.as_raw_fd().to_ne_bytes());
    put(&mut attach, 8, &BPF_CGROUP_INET4_CONNECT.to_ne_bytes());
    // SAFETY: holds descriptors and numbers, no addresses.
    unsafe { sys::bpf_without_descriptor(BPF_PROG_ATTACH, &attach) }.context("attach the foreign program")
}

/// Loads a connect program of this code.
fn load(code: &[u8]) -> Result<OwnedFd> {
    let license = c"GPL";
    let mut load = [0_u8; 128];
    put(&mut load, 0, &BPF_PROG_TYPE_CGROUP_SOCK_ADDR.to_ne_bytes());
    put(&mut load, 4, &(code.len() as u32 / 8).to_ne_bytes());
    put(&mut load, 8, &(code.as_ptr() as u64).to_ne_bytes());
    put(&mut load, 16, &(license.as_ptr() as u64).to_ne_bytes());
    put(&mut load, 48, NAME.as_bytes()); // prog_name
    put(&mut load, 68, &BPF_CGROUP_INET4_CONNECT.to_ne_bytes()); // expected_attach_type
    // SAFETY: `insns` points to `insn_cnt` instructions, `license` to a C string; both live until the call is over.
    unsafe { sys::bpf(BPF_PROG_LOAD, &load) }.context("load the foreign program")
}

fn put(attributes: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(room) = attributes.get_mut(at..at + bytes.len()) {
        room.copy_from_slice(bytes);
    }
}
