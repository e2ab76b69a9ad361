# A Containerfile that cannot be parsed fails the build with line and hint, before anything runs.
push_base
pool edge
condition mcp/edge RenderDegraded False
image edge <<'TEXT'
FROM configs AS final
RUM apt-get install autofs
TEXT
condition mcp/edge ImageBuildDegraded True
message mcp/edge ImageBuildDegraded
image edge <<'TEXT'
FROM configs AS final
LABEL corrected=yes
TEXT
condition mcp/edge ImageBuildDegraded False
eventually 60 built edge
say "corrected, built"
