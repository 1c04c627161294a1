//! The playground after the steps: everything runs, and here are the commands to try. Pods and nodes have no
//! names that a shell could use, so the demo writes a script that knows them.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

use anyhow::{Context, Result};
use underpass_tests::testbed::Site;

use super::{
    super::page::PORT,
    stage::{CLIENT, OUTSIDER, PRODUCTPAGE, Stage},
};

/// Puts the namespaces back into the mesh and says what to try.
pub(crate) fn open(stage: &Stage) -> Result<()> {
    let directory = stage.mesh.bed.lab().directory();
    let script = directory.join("in");
    fs::write(&script, text(stage)?)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    symlink(&stage.cli, directory.join("underpass")).context("link the command line tool")?;
    print(stage, directory)
}

fn print(stage: &Stage, directory: &Path) -> Result<()> {
    let screen = &stage.screen;
    let get = get()?;
    let productpage = stage.mesh.bed.pod(PRODUCTPAGE)?.v4()?;
    screen.title("\nEverything keeps running, in the mesh again. Try, in another terminal as root:");
    println!();
    screen.command(
        "here are the manifests, the logs, and `in`: a command in a pod or on a node",
        &format!("cd {}", directory.display()),
    );
    screen.command("a call in the mesh", &format!("./in {CLIENT} {get} http://productpage.bookinfo:{PORT}/"));
    screen
        .command("one that a policy denies, and why", &format!("./in {CLIENT} {get} http://ratings.bookinfo:{PORT}/"));
    println!("      ./underpass explain -f manifests {CLIENT} ratings.bookinfo:{PORT}");
    screen.command(
        "one in plaintext from outside the mesh",
        &format!("./in {OUTSIDER} {get} http://{productpage}:{PORT}/"),
    );
    screen.command("every connection is a line", "tail -f access-node-1.log access-node-2.log");
    let command = stage.cli.display();
    screen.command("how an agent stands, and what is open", &format!("./in node-1 {command} status"));
    println!("      ./in node-1 {command} connections --watch");
    screen.command("the agents watch these: change a label or a policy", "${EDITOR:-vi} manifests/security.yaml");
    screen.title("\nCtrl-C ends and removes all of it.");
    Ok(())
}

/// The HTTP client: curl where there is one, else the testbed's own program, which is built beside this one.
fn get() -> Result<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|folder| folder.join("curl").is_file()) {
        return Ok("curl -sS".to_owned());
    }
    let beside = std::env::current_exe()?.with_file_name("underpass-testapp");
    Ok(format!("{} get", beside.display()))
}

/// The script. What it starts is where a pod's own processes are: in the pod's namespaces, and in its cgroup, by which
/// the kernel programs of a node find the pod's sockets.
fn text(stage: &Stage) -> Result<String> {
    let mut cases = String::new();
    let mut names = Vec::new();
    let mut case = |name: String, agent: &str, namespaces: &str, holder: &Site, site: &Site| -> Result<()> {
        let cgroup = |site: &Site| site.cgroup().map(|path| path.display().to_string()).context("a cgroup");
        let (holder, own) = (cgroup(holder)?, cgroup(site)?);
        writeln!(cases, "  {name}) namespaces={namespaces:?} holder={holder:?} cgroup={own:?} agent={agent:?} ;;")?;
        names.push(name);
        Ok(())
    };
    for pod in stage.mesh.bed.pods() {
        case(pod.spec().full_name(), "", "--net --pid --mount", &pod.container("sandbox")?, &pod.app()?)?;
    }
    for node in stage.mesh.bed.nodes() {
        let name = node.spec().name.clone();
        case(name.clone(), &stage.mesh.target(&name), "--net --pid --mount", &node.service("init")?, &node.shell()?)?;
    }
    Ok(format!(
        "#!/bin/sh\n\
         # Runs a command in a pod or on a node: in its namespaces, and in its cgroup, by which the mesh knows it.\n\
         case \"$1\" in\n{cases}  *) echo \"usage: $0 WHERE COMMAND...\n  WHERE: {}\" >&2; exit 2 ;;\n\
         esac\n\
         shift\n\
         read -r pid < \"$holder/cgroup.procs\" && echo 0 > \"$cgroup/cgroup.procs\" || exit 1\n\
         [ -z \"$agent\" ] || export UNDERPASS_AGENT=\"$agent\"\n\
         exec nsenter --target \"$pid\" $namespaces -- \"$@\"\n",
        names.join(" ")
    ))
}
