//! Connections while something happens to an agent: without a pause, and open ones.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use underpass_tests::{
    apps::{
        hammer::{self, Hammer, Struck},
        remote::{Id, Sockets},
        servers,
    },
    mesh::Mesh,
    testbed::{Actor, Lab},
};

use super::{Family, PORT, any};

/// An open connection and both of its ends.
pub(crate) struct Open {
    pub(crate) client: Sockets,
    pub(crate) out: Id,
    server: Sockets,
    accepted: Id,
}

impl Open {
    /// From `client` to a server of its own in `server`.
    pub(crate) fn new(mesh: &Mesh, client: &str, server: &str, family: Family, port: u16) -> Result<Self> {
        let mut far = Sockets::start(&mesh.bed.app(server)?)?;
        let listener = far.listen(any(port))?;
        let mut near = Sockets::start(&mesh.bed.app(client)?)?;
        let out = near.connect(family.to(mesh.bed.pod(server)?, port)?)?;
        near.send(out, b"OPEN")??;
        let (accepted, _) = far.accept(listener)?;
        ensure!(far.receive(accepted, 4)?? == b"OPEN");
        far.close(listener)??;
        Ok(Self { client: near, out, server: far, accepted })
    }

    /// Bytes go both ways.
    pub(crate) fn goes_on(&mut self) -> Result<()> {
        self.client.send(self.out, b"THERE")??;
        ensure!(self.server.receive(self.accepted, 5)?? == b"THERE", "not there");
        self.server.send(self.accepted, b"BACK")??;
        ensure!(self.client.receive(self.out, 4)?? == b"BACK", "not back");
        Ok(())
    }

    /// Both ends close it in order.
    pub(crate) fn ends_in_order(mut self) -> Result<()> {
        self.client.shutdown_write(self.out)??;
        ensure!(self.server.read_to_end(self.accepted)??.is_empty());
        self.server.close(self.accepted)??;
        ensure!(self.client.read_to_end(self.out)??.is_empty());
        Ok(())
    }

    /// The client's end is reset.
    pub(crate) fn ends_in_a_reset(mut self) -> Result<()> {
        let failure = self.client.receive(self.out, 1)?.err().context("it is not reset")?;
        ensure!(failure.errno == libc::ECONNRESET, "{failure}");
        Ok(())
    }
}

/// Connections without a pause, in every direction that there is.
pub(crate) struct Load {
    hammers: Vec<(&'static str, Actor<Struck>)>,
    until: PathBuf,
    _servers: Vec<Actor<()>>,
}

impl Load {
    pub(crate) fn begin(mesh: &Mesh, lab: &Lab) -> Result<Self> {
        let until = lab.run_directory().join("stop");
        let _ = fs::remove_file(&until);
        let servers = ["mesh/a", "mesh/b"].map(|pod| servers::echo(&mesh.bed.app(pod)?, any(PORT)));
        let servers = servers.into_iter().collect::<Result<Vec<_>>>()?;
        let mut hammers = Vec::new();
        for (client, server) in
            [("mesh/a", "mesh/b"), ("mesh/a2", "mesh/b"), ("mesh/b", "mesh/a"), ("out/o2", "mesh/a")]
        {
            let to = Family::ALL
                .into_iter()
                .map(|family| family.to(mesh.bed.pod(server)?, PORT))
                .collect::<Result<Vec<_>>>()?;
            // From outside of the mesh it is in the clear, as it is without one.
            let say = if client.starts_with("out/") { "OUTSIDE" } else { "HAMMERED" };
            let order = Hammer::new(to, say, &until);
            hammers.push((client, hammer::start(&mesh.bed.app(client)?, order)?));
        }
        Ok(Self { hammers, until, _servers: servers })
    }

    /// While this file is not there, it goes on.
    pub(crate) fn until(&self) -> &Path {
        &self.until
    }

    /// Each of them is answered some more times.
    pub(crate) fn goes_on(&mut self) -> Result<()> {
        const TIMES: u64 = 5;
        self.hammers.iter_mut().try_for_each(|(client, hammer)| hammer::answers(hammer, TIMES).context(*client))
    }

    /// Stops; how many were answered, and what became of the others.
    pub(crate) fn end(self) -> Result<Struck> {
        fs::write(&self.until, "")?;
        let (mut answered, mut failed) = (0, BTreeMap::new());
        for (client, hammer) in self.hammers {
            let (some, others) = hammer.join()?;
            answered += some;
            others.into_iter().for_each(|(what, n)| *failed.entry(format!("{client} {what}")).or_default() += n);
        }
        println!("{answered} answered, {failed:?}");
        Ok((answered, failed))
    }
}

/// Cut short by the end of an agent, or, from elsewhere, refused while there is none.
pub(crate) fn is_cut(what: &str) -> bool {
    // ENOTCONN: reset between the answer and the question who gave it.
    let cut = ["ECONNRESET", "EPIPE", "ECONNREFUSED", "ENOTCONN"];
    cut.iter().any(|allowed| what.contains(allowed))
}
