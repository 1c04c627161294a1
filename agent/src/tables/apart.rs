//! The consequences of a failed operation: the pod that it concerns, and the operations that must wait for it. Its own file
//! because the rest of the room is about operations that succeed.
//!
//! What must hold: one that fails leaves more closed than it was to be, never less.

use underpass_abi::{ANY_OTHER, Cookie, Op};

use super::Tables;

impl Tables {
    /// The pod that an operation concerns; none: it concerns all of them.
    #[must_use]
    pub fn concerned(&self, op: &Op) -> Option<Cookie> {
        match op {
            Op::SetLocal(key, _) | Op::RemoveLocal(key) => Some(key.pod),
            Op::SetPodCgroup(_, pod) | Op::SetProbe(_, pod) | Op::SetPod(pod, _) | Op::RemovePod(pod) => Some(*pod),
            Op::RemoveProbe(key) => self.probes.get(key).copied(),
            Op::RemovePodCgroup(cgroup) => self.pod_cgroups.get(cgroup).copied(),
            Op::SetAgent(_)
            | Op::RemoveAgent(_)
            | Op::SetKubelet(..)
            | Op::RemoveKubelet(_)
            | Op::SetDestination(..)
            | Op::RemoveDestination(_) => None,
        }
    }

    /// Whether `op` must wait because `failed` has not been done. What decides about a pod goes after the pod, and what
    /// stands for addresses that are missing goes when none is. Everything else closes, or makes room.
    #[must_use]
    pub fn must_wait(&self, op: &Op, failed: &Op) -> bool {
        match (op, failed) {
            (Op::RemoveLocal(_) | Op::RemovePodCgroup(_), Op::RemovePod(pod)) => self.concerned(op) == Some(*pod),
            (Op::RemoveDestination(address), Op::SetDestination(..)) => *address == ANY_OTHER,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use underpass_abi::{Address, CgroupId, Destination, LocalKey, Locality, Port, ProbeKey};

    use super::*;

    #[test]
    fn operations_that_wait_for_others() {
        let ip = |n: u32| Address::from(Ipv4Addr::from(n));
        let key = |pod| LocalKey { pod: Cookie(pod), address: ip(1) };
        let probe = ProbeKey { address: ip(1), port: Port::from(80) };
        let tables = Tables::from_ops(&[
            Op::SetPodCgroup(CgroupId(10), Cookie(1)),
            Op::SetPodCgroup(CgroupId(20), Cookie(2)),
            Op::SetLocal(key(1), Locality::POD),
            Op::SetProbe(probe, Cookie(1)),
        ]);
        let check =
            |op: Op, failed: Op, waits: bool| assert_eq!(tables.must_wait(&op, &failed), waits, "{op:?} {failed:?}");
        let (gone, came) = (Op::RemovePod(Cookie(1)), Op::SetDestination(ip(9), Destination::TUNNEL));
        check(Op::RemoveLocal(key(1)), gone, true);
        check(Op::RemoveLocal(key(2)), gone, false);
        check(Op::RemovePodCgroup(CgroupId(10)), gone, true);
        check(Op::RemovePodCgroup(CgroupId(20)), gone, false);
        check(Op::RemovePodCgroup(CgroupId(10)), came, false);
        check(Op::RemoveDestination(ANY_OTHER), came, true);
        check(Op::RemoveDestination(ip(1)), came, false);
        check(Op::RemoveAgent(CgroupId(1)), Op::SetAgent(CgroupId(2)), false);
        // What opens goes, also after the failure of any other.
        check(Op::RemoveProbe(probe), gone, false);
        check(Op::RemoveKubelet(CgroupId(8)), Op::SetKubelet(CgroupId(9), Cookie(7)), false);
        let ops = [gone, came, Op::SetProbe(probe, Cookie(2)), Op::RemoveProbe(probe), Op::RemoveKubelet(CgroupId(8))];
        let concerned = [Some(Cookie(1)), None, Some(Cookie(2)), Some(Cookie(1)), None];
        assert_eq!(ops.map(|op| tables.concerned(&op)), concerned);
    }
}
