//! The Helm chart, rendered by Helm: what it asks of programs they take, what a user misspells is named, Istio's values land
//! where they belong, and an API server takes every object. Level kubernetes; no mesh.
//!
//! What must hold: a flag, a file or a right that the chart names is compared with the program or the test that has it, so
//! that neither changes without the other.

#[path = "chart/cleanup.rs"]
mod cleanup;
#[path = "chart/command.rs"]
mod command;
#[path = "chart/helm.rs"]
mod helm;
#[path = "chart/installed.rs"]
mod installed;
#[path = "chart/policies.rs"]
mod policies;
#[path = "chart/profiles.rs"]
mod profiles;
#[path = "chart/programs.rs"]
mod programs;
#[path = "chart/self_test.rs"]
mod self_test;
#[path = "chart/surroundings.rs"]
mod surroundings;
#[path = "chart/values.rs"]
mod values;

use std::{collections::BTreeSet, process::ExitCode};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use underpass_tests::testbed::harness::{self, Scenario};

use helm::{Helm, Objects, at};

fn main() -> ExitCode {
    harness::main(&[
        Scenario::outside("is_clean", is_clean),
        Scenario::outside("programs_take_what_it_asks", programs::take_what_it_asks),
        Scenario::outside("every_file_is_mounted", every_file_is_mounted),
        Scenario::outside("rights_are_those_of_the_tests", rights_are_those_of_the_tests),
        Scenario::outside("a_misspelt_value_is_named", values::a_misspelt_one_is_named),
        Scenario::outside("istios_values_are_taken", values::istios_are_taken),
        Scenario::outside("values_reach_their_places", values::reach_their_places),
        Scenario::outside("the_cni_plugin_can_be_left_out", values::the_cni_plugin_can_be_left_out),
        Scenario::outside("every_setting_of_an_agent_has_one_place", values::every_setting_of_an_agent_has_one_place),
        Scenario::outside("cleanup_needs_nothing_of_the_release", cleanup::needs_nothing_of_the_release),
        Scenario::outside("cleanup_follows_the_agents", cleanup::follows_the_agents),
        Scenario::outside("cleanup_is_what_programs_take", cleanup::is_what_programs_take),
        Scenario::outside("cleanup_can_be_left_out", cleanup::can_be_left_out),
        Scenario::outside("definitions_are_applied_by_a_hook", policies::definitions_are_applied_by_a_hook),
        Scenario::outside("admission_cannot_be_in_the_way", policies::admission_cannot_be_in_the_way),
        Scenario::outside("the_self_test_leaves_nothing", self_test::leaves_nothing),
        Scenario::outside("the_self_test_guards_one_port", self_test::names_one_guarded_port_and_one_identity),
        Scenario::outside("profiles_are_under_the_users_values", profiles::are_under_the_users_values),
        Scenario::outside("profiles_are_in_every_template", profiles::are_in_every_template),
        Scenario::outside("a_network_policy_closes_no_port", surroundings::a_network_policy_closes_no_port),
        Scenario::outside("prometheus_is_told_the_port", surroundings::prometheus_is_told_the_agents_own_port),
        Scenario::outside("alerts_are_those_of_the_file", surroundings::alerts_are_those_of_the_file),
        Scenario::outside("a_dumped_profile_is_the_profile", command::a_dumped_profile_is_the_profile),
        Scenario::new("the_command_changes_nothing_unasked", command::changes_nothing_unasked),
        Scenario::new("the_command_installs_and_upgrades", command::installs_and_upgrades),
        Scenario::new("its_manifests_are_a_whole_mesh", command::its_manifests_are_a_whole_mesh),
        Scenario::new("an_api_server_takes_every_object", installed::an_api_server_takes_every_object),
        Scenario::new("the_root_namespace_is_made_and_kept", installed::the_root_namespace_is_made_and_kept),
        Scenario::new("an_agent_may_write_one_annotation", installed::an_agent_may_write_one_annotation),
        Scenario::new("control_may_remove_one_taint", installed::control_may_remove_one_taint),
    ])
}

fn is_clean() -> Result<()> {
    let helm = Helm::new()?;
    let said = helm.run(&["lint", "--strict", helm::CHART])?;
    ensure!(said.contains("0 chart(s) failed"), "{said}");
    for values in [values::NONE, values::ALL, values::ISTIO] {
        let objects = helm.render(values)?;
        let kinds: BTreeSet<_> = objects.0.iter().map(|object| at(object, "kind").to_string()).collect();
        ensure!(kinds.contains("\"DaemonSet\"") && kinds.contains("\"Deployment\""), "{kinds:?}");
        // Helm owns what has these, and a user finds it by them.
        for object in &objects.0 {
            let labels = &object["metadata"]["labels"];
            ensure!(labels["app.kubernetes.io/part-of"] == "underpass", "{object}");
            ensure!(labels["app.kubernetes.io/managed-by"] == "Helm", "{object}");
        }
    }
    let version = helm.run(&["show", "chart", helm::CHART])?;
    let own = env!("CARGO_PKG_VERSION");
    for line in [format!("version: {own}"), format!("appVersion: {own}")] {
        ensure!(version.lines().any(|found| found == line), "no line `{line}`: {version}");
    }
    Ok(())
}

/// Each mount has its volume, each volume its mount, and every path that a container is told of is on one of them.
fn every_file_is_mounted() -> Result<()> {
    for values in [values::NONE, values::ALL, values::ISTIO, "cni: {enabled: false}"] {
        for workload in Helm::new()?.render(values)?.workloads() {
            let spec = at(workload, "spec.template.spec");
            let names = |list: &Value| -> BTreeSet<String> {
                list.as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|one| one["name"].as_str().map(str::to_owned))
                    .collect()
            };
            let mut mounted = BTreeSet::new();
            for container in helm::containers(spec) {
                mounted.extend(names(&container["volumeMounts"]));
                let paths: Vec<_> = container["volumeMounts"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|mount| mount["mountPath"].as_str())
                    .collect();
                for told in helm::paths(container) {
                    let is_there = told.starts_with("/usr/local/bin/")
                        || paths.iter().any(|path| told == *path || told.starts_with(&format!("{path}/")));
                    ensure!(is_there, "{told} of {} is not below {paths:?}", container["name"]);
                }
                ensure!(container["securityContext"]["readOnlyRootFilesystem"] == true, "{container}");
            }
            ensure!(mounted == names(&spec["volumes"]), "{mounted:?} of {}", spec["volumes"]);
        }
    }
    Ok(())
}

/// The rules of the testbed's roles are what programs are tested with; the chart gives exactly these. The cleanup's own are tested where it
/// runs, and are no more than this.
fn rights_are_those_of_the_tests() -> Result<()> {
    let tested = Objects::parse(include_str!("../../src/cluster/rights.yaml"))?;
    let rendered = Helm::new()?.render(values::NONE)?;
    let mut compared = 0;
    for role in tested.0.iter().filter(|object| object["rules"].is_array()) {
        let (kind, name) = (at(role, "kind"), at(role, "metadata.name"));
        let same = |object: &&Value| object["kind"] == *kind && object["metadata"]["name"] == *name;
        let given = rendered.0.iter().find(same).with_context(|| format!("{kind} {name}"))?;
        ensure!(given["rules"] == role["rules"], "{kind} {name}: {} and {}", given["rules"], role["rules"]);
        compared += 1;
    }
    let given = rendered.0.iter().filter(|object| object["rules"].is_array() && !Objects::is_hook(object)).count();
    // Those of the hook that applies the definitions are tested as well.
    ensure!(compared == 4 && given + 1 == compared, "{compared} of {given}");
    let of_cleanup = rendered.hooks(cleanup::WHEN).filter_map(|object| object["rules"].as_array()).collect::<Vec<_>>();
    let expected = json!([
        {"apiGroups": ["apps"], "resources": ["daemonsets"], "resourceNames": ["underpass-cleanup"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
    ]);
    ensure!(of_cleanup == [expected.as_array().context("rules")?], "{of_cleanup:?}");
    Ok(())
}
