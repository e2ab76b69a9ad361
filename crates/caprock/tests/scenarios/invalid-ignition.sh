# Configs that no node could apply are refused with object, field and reason; the last good render stays in force.
pool edge
config 50-edge-motd edge <<'YAML'
ignition: {version: 3.5.0}
storage:
  files:
  - {path: /etc/motd, contents: {source: "data:,hello"}}
YAML
condition mcp/edge RenderDegraded False
eventually 30 rendered edge
good=$(kubectl get mcp edge -o 'jsonpath={.spec.configuration.name}')

config 51-edge-bad edge <<'YAML'
ignition: {version: 3.5.0}
storage:
  files:
  - {path: etc/chrony.conf, contents: {source: "data:,x"}}
YAML
condition mcp/edge RenderDegraded True
message mcp/edge RenderDegraded
[ "$(kubectl get mcp edge -o 'jsonpath={.spec.configuration.name}')" = "$good" ] && say "the last good render stays"

config 51-edge-bad edge <<'YAML'
ignition: {version: 3.5.0}
storage:
  files:
  - {path: /etc/chrony.conf, contents: {source: "data:,x"}}
YAML
condition mcp/edge RenderDegraded False
[ "$(kubectl get mcp edge -o 'jsonpath={.spec.configuration.name}')" != "$good" ] && say "corrected, rendered anew"
