#!/usr/bin/env bash
# Makes the database as the entrypoint would, and leaves no server: for a container that only prepares a directory.
set -Eeuo pipefail

# shellcheck source-path=SCRIPTDIR source=docker-entrypoint.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/docker-entrypoint.sh"

ensure() {
	if [ "${1:-}" != postgres ]; then
		set -- postgres "$@"
	fi
	read_environment
	prepare_directories
	if is_root; then
		exec gosu postgres "${BASH_SOURCE[0]}" "$@"
	fi
	if has_database; then
		say "note: there is a database in \"$PGDATA\" already; nothing was done"
		exit 0
	fi
	initialise "${@:2}"
	say ''
	say 'PostgreSQL init process complete.'
	say ''
}

ensure "$@"
