//! The programs themselves judge what the chart starts them with.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    helm::{Helm, NAMESPACE, Objects, strings},
    values,
};

/// The program that `cargo xtask` names by this variable.
pub(crate) fn program(variable: &str) -> Result<PathBuf> {
    let path = std::env::var_os(variable);
    path.map(PathBuf::from).with_context(|| format!("{variable} names a program: run `cargo xtask test kubernetes`"))
}

fn output(command: &mut Command) -> Result<(Output, String)> {
    let output = command.env_clear().output().with_context(|| format!("start {command:?}"))?;
    let said = [&output.stdout[..], &output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    Ok((output, said))
}

/// The settings that an agent would run with, by its own account.
pub(crate) fn settings_of_agent(objects: &Objects) -> Result<Vec<(String, String)>> {
    let container = objects.container("DaemonSet", "underpass-agent")?;
    ensure!(strings(&container["command"]) == ["/usr/local/bin/underpass-agent"], "{container}");
    let settings = &objects.one("ConfigMap", "underpass-agent")?["data"]["agent.yaml"];
    let file = std::env::temp_dir().join(format!("underpass-agent-{}.yaml", std::process::id()));
    fs::write(&file, settings.as_str().context("a file")?)?;
    let place = |argument: String| argument.replace("/etc/underpass/agent.yaml", &file.to_string_lossy());
    let arguments: Vec<_> = strings(&container["args"]).into_iter().map(place).collect();
    ensure!(arguments.iter().any(|argument| argument.ends_with(&*file.to_string_lossy())), "{arguments:?}");
    let mut command = Command::new(program("UNDERPASS_AGENT_BIN")?);
    command.args(&arguments).arg("--print-config");
    command.env_clear();
    let from_node = |value: &Value| match value["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
        Some(_) => "node-1".to_owned(),
        None => value["value"].as_str().unwrap_or_default().to_owned(),
    };
    for variable in container["env"].as_array().into_iter().flatten() {
        command.env(variable["name"].as_str().unwrap_or_default(), from_node(variable));
    }
    let output = command.output()?;
    fs::remove_file(&file)?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let pairs = text.lines().filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        let value = value.split_once(" #").map_or(value, |(value, _)| value);
        Some((name.to_owned(), value.trim().trim_matches('"').to_owned()))
    });
    Ok(pairs.collect())
}

/// The arguments of the control plane.
pub(crate) fn arguments_of_control(objects: &Objects) -> Result<Vec<String>> {
    let container = objects.container("Deployment", "underpass-control")?;
    ensure!(strings(&container["command"]) == ["/usr/local/bin/underpass-control"], "{container}");
    Ok(strings(&container["args"]))
}

pub(crate) fn take_what_it_asks() -> Result<()> {
    for values in [values::NONE, values::ALL, values::ISTIO] {
        let objects = Helm::new()?.render(values)?;
        let settings = settings_of_agent(&objects)?;
        let is = |name: &str, value: &str| settings.iter().any(|(n, v)| n == name && v == value);
        let control = format!("underpass-control.{NAMESPACE}.svc:15012");
        ensure!(is("control-plane", &control) && is("node", "node-1"), "{settings:?}");
        ensure!(is("take-over", "true") && is("stay", "true"), "{settings:?}");
        control_parses(&arguments_of_control(&objects)?)?;
        probes_ask_the_agents_socket(&objects)?;
    }
    let refused = control_parses(&["--no-such-flag=1".to_owned()]).err().context("it takes every flag")?;
    ensure!(format!("{refused:#}").contains("--no-such-flag"), "{refused:#}");
    Ok(())
}

fn control_parses(arguments: &[String]) -> Result<()> {
    says_help(&program("UNDERPASS_CONTROL_BIN")?, arguments, "Usage: underpass-control")
}

/// clap comes to `--help` after everything before it was understood.
pub(crate) fn says_help(program: &Path, arguments: &[String], usage: &str) -> Result<()> {
    let (output, said) = output(Command::new(program).args(arguments).arg("--help"))?;
    ensure!(output.status.success() && said.contains(usage), "{arguments:?}: {said}");
    Ok(())
}

/// Without an agent the probe says which socket it asked: that of the agent's setting.
fn probes_ask_the_agents_socket(objects: &Objects) -> Result<()> {
    let container = objects.container("DaemonSet", "underpass-agent")?;
    let settings = settings_of_agent(objects)?;
    let socket = settings.iter().find(|(name, _)| name == "probe-socket").context("a probe socket")?;
    for (probe, question) in [("startupProbe", "live"), ("readinessProbe", "ready"), ("livenessProbe", "live")] {
        let command = strings(&container[probe]["exec"]["command"]);
        ensure!(command[..3] == ["/usr/local/bin/underpass-agent", "probe", question], "{command:?}");
        let variables = container["env"].as_array().into_iter().flatten();
        let variables = variables.filter_map(|one| Some((one["name"].as_str()?, one["value"].as_str()?)));
        let mut asked = Command::new(program("UNDERPASS_AGENT_BIN")?);
        let output = asked.args(&command[1..]).env_clear().envs(variables).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(1) && said.contains("cannot connect to"), "{command:?}: {said}");
        ensure!(said.contains(&socket.1), "{said} of {socket:?}");
    }
    let first = &objects.one("DaemonSet", "underpass-agent")?["spec"]["template"]["spec"]["initContainers"][0];
    ensure!(strings(&first["command"])[1..] == ["mount-bpffs", "/sys/fs/bpf"], "{first}");
    Ok(())
}
