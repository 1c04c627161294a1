//! The kernel's counters: one for every decision and for every refusal with its reason.
//!
//! The names are part of the interface: metrics carry them as labels, tests assert them, so that "it was refused" always
//! comes with "and by this rule". Counters are kept per CPU and only grow.

/// Declares the counters: variant, hook and event.
macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident = $hook:literal, $event:literal;)+) => {
        /// An event that the kernel programs count. The number is the slot in the map `COUNTS`.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Counter {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Counter {
            /// Every counter, in the order of its slots.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The hook that counts it: `create`, `connect`, `syn`, `accept`, `steer` or `guard`.
            #[must_use]
            pub const fn hook(self) -> &'static str {
                match self { $(Self::$name => $hook,)+ }
            }

            /// The event at that hook.
            #[must_use]
            pub const fn event(self) -> &'static str {
                match self { $(Self::$name => $event,)+ }
            }

            /// `hook:event`, as tests and tools name it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => concat!($hook, ":", $event),)+ }
            }
        }
    };
}

counters! {
    /// A multipath TCP socket was refused: the kernel would open further subflows that no connect hook sees.
    CreateMptcp = "create", "mptcp";
    /// A socket was refused because its storage could not be allocated.
    CreateNoStorage = "create", "no-storage";
    /// A connection of a pod to itself.
    ConnectLocal = "connect", "local";
    /// A connection to a destination out of the mesh.
    ConnectLeave = "connect", "leave";
    /// A connection that was handed to the tunnel.
    ConnectCaptured = "connect", "captured";
    /// A connection that was handed to the tunnel because the table of the mesh, which is full, does not know its destination.
    ConnectUnlisted = "connect", "unlisted";
    /// A connection of the agent inside a pod.
    ConnectAgent = "connect", "agent";
    /// A connection of the kubelet to a pod that it probes.
    ConnectProbe = "connect", "probe";
    /// Refused with EPERM: the table of the mesh refuses its destination.
    ConnectRefused = "connect", "refused";
    /// Refused with EPERM: a socket bound to a device cannot be routed over lo.
    ConnectBoundDevice = "connect", "bound-device";
    /// Refused with EPERM: its storage could not be allocated.
    ConnectNoStorage = "connect", "no-storage";
    /// Refused with EPERM: its mark could not be set.
    ConnectNoMark = "connect", "no-mark";
    /// Dropped: another connect program changed the destination after it was decided.
    SynRewritten = "syn", "rewritten";
    /// Dropped: the source is not one of the pod's addresses.
    SynSource = "syn", "source";
    /// Dropped: no connect hook saw this socket.
    SynNoConnect = "syn", "no-connect";
    /// A connection to an application was attested: the agent's hand-off, or a probe.
    SynAttested = "syn", "attested";
    /// It could not be attested: the SYN of a hand-off will be refused, that of a probe reach the tunnel.
    SynNotAttested = "syn", "not-attested";
    /// A connection that an application accepted from the agent was bound to lo.
    AcceptBound = "accept", "bound";
    /// A connection that an application accepted from the agent could not be bound to lo; guard keeps its packets there.
    AcceptNotBound = "accept", "not-bound";
    /// An attested connection reached the application.
    SteerAttested = "steer", "attested";
    /// A captured connection reached the tunnel.
    SteerOutbound = "steer", "outbound";
    /// A connection from outside reached the tunnel.
    SteerInbound = "steer", "inbound";
    /// Refused: over lo, neither captured nor attested.
    SteerStranger = "steer", "stranger";
    /// Refused: the tunnel does not listen.
    SteerNoListener = "steer", "no-listener";
    /// Dropped: a captured socket's packet was about to leave by another device than lo.
    GuardDevice = "guard", "device";
    /// Dropped: a packet of a socket that was denied.
    GuardDenied = "guard", "denied";
    /// Held back: a captured SYN while the tunnel does not listen. It is retransmitted.
    GuardNoListener = "guard", "no-listener";
    /// Dropped: a SYN of a socket without a decision.
    GuardUndecided = "guard", "undecided";
    /// Dropped: a raw packet of a pod that could open a TCP connection.
    GuardRaw = "guard", "raw";
}

impl Counter {
    /// The slot in the map `COUNTS`.
    #[inline(always)]
    #[must_use]
    pub const fn slot(self) -> u32 {
        self as u32
    }
}

const _: () = assert!(Counter::ALL.len() <= crate::limits::COUNTS as usize);

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn slots_are_dense_and_names_unique() {
        for (slot, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(counter.slot() as usize, slot);
            assert_eq!(counter.name(), format!("{}:{}", counter.hook(), counter.event()));
        }
        let names: HashSet<_> = Counter::ALL.iter().map(|counter| counter.name()).collect();
        assert_eq!(names.len(), Counter::ALL.len());
    }
}
