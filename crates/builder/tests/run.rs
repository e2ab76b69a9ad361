//! Executing steps for real: takes root, crun and busybox.
#![allow(clippy::unwrap_used)]

mod common;

use builder::{BuildError, StepStatus};
use common::{Lab, privileged};

#[tokio::test(flavor = "multi_thread")]
async fn privileged_output_and_files_of_a_command_are_kept() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let image = lab
        .build(
            "ENV A=1\nWORKDIR /work\nRUN echo $A; pwd; hostname; echo hi > f; echo to-stderr >&2",
        )
        .await
        .unwrap();
    assert_eq!(lab.output(), ["1", "/work", "build", "to-stderr"]);
    assert_eq!(lab.last_layer(&image), ["dir work/", "file work/f"]);
    let root = image.root(&|_| {}).await.unwrap();
    assert_eq!(root.read("/work/f", 10).unwrap().unwrap(), b"hi\n");
    assert_eq!(image.config().config.working_dir, "/work");
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_failure_has_status_line_and_tail() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let error = lab.build("\nRUN seq 1 30; \\\n  exit 7").await.unwrap_err();
    match &error {
        BuildError::Step {
            step,
            steps,
            line,
            status,
            tail,
            ..
        } => {
            assert_eq!((*step, *steps, *line), (3, 3, 4));
            assert_eq!(*status, StepStatus::Exit(7));
            assert_eq!(tail.len(), 20);
            assert_eq!(tail.last().unwrap(), "30");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        error.to_string(),
        "step 3 of 3, line 4: `RUN seq 1 30;   exit 7` exited with status 7"
    );
    assert!(!error.is_transient());
}
