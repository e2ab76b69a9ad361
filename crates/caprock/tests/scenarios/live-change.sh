# A change of a file that is no build input makes a new rendered config but no new build.
push_base
pool edge
motd() {
    config 50-edge-motd edge <<YAML
ignition: {version: 3.5.0}
storage:
  files:
  - {path: /etc/motd, contents: {source: "data:,$1"}}
YAML
}
motd hello
condition mcp/edge RenderDegraded False
image edge <<'TEXT'
FROM configs AS final
LABEL made=yes
TEXT
condition mcp/edge ImageBuildDegraded False
eventually 60 imaged edge
before=$(kubectl get mcp edge -o 'jsonpath={.spec.configuration.name}')
motd goodbye
changed() { [ "$(kubectl get mcp edge -o 'jsonpath={.spec.configuration.name}')" != "$before" ]; }
eventually 30 changed
say "another rendered config"
condition mcp/edge Updated True
say "builds: $(kubectl get machineosbuild --no-headers | wc -l)"
