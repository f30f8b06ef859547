//! The alerts of the chart, as Prometheus takes them: the rules are valid, and each fires when it should and
//! is silent when it should. `chart_alerts/` holds what Prometheus would be told.

#[path = "support/chart.rs"]
mod support;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::helm::{documents, render};
use holdfast_e2e::{Workdir, tools};
use serde_json::{Value, json};
use support::{EVERYTHING, NAMESPACE, only};

/// With a ServiceMonitor, the labels of a scrape are known.
const MONITORED: &str = "{prometheusRule: {enabled: true}, serviceMonitor: {enabled: true}}";

const ALONE: &str = "prometheusRule: {enabled: true}";

/// The rules that the chart makes of these values, and a folder that has them in `rules.yaml`, as Prometheus
/// reads them.
async fn rules(values: &str) -> Result<(Workdir, Vec<Value>)> {
    let rule = only(&render(NAMESPACE, values).await?, "PrometheusRule")?;
    let groups = &rule["spec"]["groups"];
    let dir = Workdir::new()?;
    // JSON is YAML too.
    let file = json!({"groups": groups}).to_string();
    std::fs::write(dir.join("rules.yaml"), file)?;
    let rules = groups[0]["rules"].as_array().context("no rules")?.clone();
    Ok((dir, rules))
}

/// A file of tests.
fn cases(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/chart_alerts")
        .join(name)
}

#[tokio::test]
async fn prometheus_takes_the_rules() -> Result<()> {
    for values in [ALONE, MONITORED, EVERYTHING] {
        let (dir, rules) = rules(values).await?;
        let file = dir.join("rules.yaml").to_string_lossy().into_owned();
        let output = tools::promtool(["check", "rules", &file]).await?.ok()?;
        let found = format!("{} rules found", rules.len());
        ensure!(output.said().contains(&found), "{}", output.said());
    }
    Ok(())
}

#[tokio::test]
async fn each_alert_fires_when_it_should_and_only_then() -> Result<()> {
    for (values, name) in [(MONITORED, "alerts.yaml"), (ALONE, "anywhere.yaml")] {
        let (dir, _) = rules(values).await?;
        // The file names the rules as its neighbour.
        let file = dir.join(name);
        std::fs::copy(cases(name), &file)?;
        let file = file.to_string_lossy().into_owned();
        let output = tools::promtool(["test", "rules", &file]).await?.ok()?;
        ensure!(output.said().contains("SUCCESS"), "{}", output.said());
    }
    Ok(())
}

#[tokio::test]
async fn no_alert_is_without_a_test_of_both() -> Result<()> {
    let (_dir, rules) = rules(MONITORED).await?;
    let tests = documents(&std::fs::read_to_string(cases("alerts.yaml"))?)?.remove(0);
    let questions: Vec<&Value> = tests["tests"]
        .as_array()
        .context("no tests")?
        .iter()
        .flat_map(|test| test["alert_rule_test"].as_array().into_iter().flatten())
        .collect();
    for rule in &rules {
        for fires in [true, false] {
            let asked = questions.iter().any(|question| {
                question["alertname"] == rule["alert"]
                    && question["exp_alerts"]
                        .as_array()
                        .is_some_and(|alerts| alerts.is_empty() != fires)
            });
            ensure!(
                asked,
                "no test where {} {}",
                rule["alert"],
                if fires { "fires" } else { "is silent" }
            );
        }
    }
    Ok(())
}
