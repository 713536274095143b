#!/bin/sh
# Stands in for ssh between network namespaces: ns_agent.sh HOST COMMAND…
# Open MPI calls it (plm_rsh_agent) to start its daemon on HOST, which is the name of a namespace here.
# The daemon gets that host name too, since Open MPI tells machines apart by their names.
set -eu
host=$1
shift
# As with ssh, the words of the command are joined and parsed by a shell on the other side.
exec ip netns exec "$host" unshare --uts sh -c "hostname '$host' && $*"
