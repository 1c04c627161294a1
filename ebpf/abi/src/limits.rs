//! The limits of the kernel data path: the size of every table and the bounds of every loop.
//!
//! One file, because the programs declare the maps with these numbers and user space refuses what exceeds them with a
//! typed error. A table that is full is never silently cut.

/// Pods of one node. The kubelet's own default is 110; large nodes are run with up to 500.
pub const PODS: u32 = 4_096;
/// Addresses that are local to one pod, link-local and secondary ones among them. A pod can add addresses as it likes.
pub const POD_ADDRESSES: u32 = 256;
/// Addresses that are local to the pods of one node: room for all that each may have, so that none takes another's.
pub const LOCALS: u32 = PODS * POD_ADDRESSES;
/// Addresses in the mesh, of pods and of services, of the whole cluster; and one entry for all that do not fit.
pub const MESH: u32 = 1_048_576;
/// Probe targets of one pod, address and port: a pod has more only by being written to have them.
pub const POD_PROBES: u32 = 64;
/// Probe targets of the pods of one node: room for all that each may have, so that none takes another's.
pub const PROBES: u32 = PODS * POD_PROBES;
/// The kubelet; during its restart the one before as well; twice that.
pub const KUBELETS: u32 = 4;
/// Attested connections that are not closed yet. The oldest give way: such a connection's SYN is then refused.
pub const ATTESTED: u32 = 65_536;
/// One per pod and direction.
pub const LISTENERS: u32 = 2 * PODS;
/// The agent, and during a hand-over two of them; twice that, so that the dead can be taken out after the living came.
pub const AGENTS: u32 = 4;
/// Cgroups of pods: one each.
pub const POD_CGROUPS: u32 = PODS;
/// Slots of the counters; more than there are, so that a new counter does not change the map.
pub const COUNTS: u32 = 64;

/// How deep under the root a pod's cgroup may lie to be recognised from one of its packets. A kubelet in a container
/// under systemd gets to seven.
pub const CGROUP_LEVELS: u32 = 16;
/// IPv6 extension headers that are followed to find TCP. What has more is treated as if it were TCP.
pub const EXTENSION_HEADERS: u32 = 6;

/// In the instructions of the program that steers one pod, in the place of the pod's cookie. No half of it occurs in the
/// program otherwise, which the loader checks.
pub const TEMPLATE: u64 = 0x5eed_c0de_1e55_f00d;
