#!/usr/bin/env bash
# First process of the image: makes the database if there is none, then becomes the server.
#
# The official postgres image is what people run, so this one answers to the same variables, arguments and
# mounts. Sourced (docker-ensure-initdb.sh does), it only defines the functions.
set -Eeuo pipefail

readonly SOCKET_DIR=/var/run/postgresql
readonly HOME_DIR=/var/lib/postgresql
readonly INIT_DIR=/docker-entrypoint-initdb.d

say() {
	printf '%s\n' "$*"
}

fail() {
	printf 'error: %s\n' "$*" >&2
	exit 1
}

is_root() {
	[ "$(id -u)" = 0 ]
}

has_database() {
	# An empty PG_VERSION is what a full disk leaves behind: that is no database.
	[ -s "$PGDATA/PG_VERSION" ]
}

# Options with which the server only prints something; they must not make a database.
asks_for_text_only() {
	local arg
	for arg; do
		case $arg in
		-'?' | --help | --describe-config | -V | --version) return 0 ;;
		esac
	done
	return 1
}

# read_setting NAME DEFAULT: NAME from the environment, from the file named by NAME_FILE, or DEFAULT.
read_setting() {
	local name=$1 value=$2 file_name=$1_FILE
	if [ -n "${!name:-}" ] && [ -n "${!file_name:-}" ]; then
		fail "both $name and $file_name are set (but are exclusive)"
	fi
	if [ -n "${!name:-}" ]; then
		value=${!name}
	elif [ -n "${!file_name:-}" ]; then
		# Read now, while root: a secret is often readable by root alone. A failed read must end the container,
		# and the status of an assignment in `export` would be lost.
		value=$(cat -- "${!file_name}") || fail "$file_name: cannot read ${!file_name}"
	fi
	export "$name=$value"
	unset "$file_name"
}

read_environment() {
	: "${PG_MAJOR:?is not set}" "${PGDATA:?is not set}"
	read_setting POSTGRES_PASSWORD ''
	read_setting POSTGRES_USER postgres
	read_setting POSTGRES_DB "$POSTGRES_USER"
	read_setting POSTGRES_INITDB_ARGS ''
	: "${POSTGRES_HOST_AUTH_METHOD:=}" "${POSTGRES_INITDB_WALDIR:=}"
}

own_directory() {
	local dir=$1 mode=$2
	mkdir -p "$dir"
	# Not fatal: an unprivileged --user may hold a directory that is right already but not its own.
	chmod "$mode" "$dir" || :
	if is_root; then
		find "$dir" ! -user postgres -exec chown postgres {} +
	fi
}

prepare_directories() {
	own_directory "$PGDATA" 00700
	own_directory "$SOCKET_DIR" 03775 || :
	if [ -n "$POSTGRES_INITDB_WALDIR" ]; then
		own_directory "$POSTGRES_INITDB_WALDIR" 00700
	fi
}

require_password() {
	case $POSTGRES_HOST_AUTH_METHOD in
	trust)
		say 'warning: POSTGRES_HOST_AUTH_METHOD is "trust": whoever reaches the port is let in without a password.' >&2
		;;
	*)
		if [ -z "$POSTGRES_PASSWORD" ]; then
			printf '%s\n' \
				'Error: Database is uninitialized and superuser password is not specified.' \
				'       Set POSTGRES_PASSWORD (or POSTGRES_PASSWORD_FILE) to a non-empty value; to let everyone' \
				'       in without one, which is not recommended, set POSTGRES_HOST_AUTH_METHOD=trust.' >&2
			exit 1
		fi
		;;
	esac
}

# Prints the places where data or a mount of the layout before 18 is seen.
find_old_layout() {
	local dir
	for dir in "$HOME_DIR" "$HOME_DIR/data" "$HOME_DIR"/*/docker; do
		if [ -s "$dir/PG_VERSION" ]; then
			say "$dir"
		fi
	done
	# The kernel's own list: `mountpoint` does not see a bind mount everywhere.
	if [ ! -s "$HOME_DIR/data/PG_VERSION" ] &&
		awk -v at="$HOME_DIR/data" '$5 == at { found = 1 } END { exit !found }' /proc/self/mountinfo; then
		say "$HOME_DIR/data (unused mount/volume)"
	fi
}

# From 18 on the volume is the parent directory. With a mount at the old place the data would land in an anonymous
# volume and be gone with the container: refuse rather than make a second, empty database.
refuse_old_layout() {
	local found
	if [ "$PG_MAJOR" -lt 18 ] || [ "$PGDATA" != "$HOME_DIR/$PG_MAJOR/docker" ]; then
		return 0
	fi
	found=$(find_old_layout)
	if [ -n "$found" ]; then
		{
			say 'Error: in 18+, these Docker images are configured to store database data in a'
			say "       directory of its own for each major version: $PGDATA."
			say "       Mount one volume at $HOME_DIR."
			say ''
			say '       Counter to that, there appears to be PostgreSQL data in:'
			say "         ${found//$'\n'/$'\n'         }"
			say ''
			say '       Move the mount, or set PGDATA to where the data is to be.'
		} >&2
		exit 1
	fi
}

# initdb refuses a user id that has no name, as --user may give one: lend it a name for as long as initdb runs.
lend_user_name() {
	local library
	if getent passwd "$(id -u)" >/dev/null; then
		return 0
	fi
	for library in /usr/lib/*/libnss_wrapper.so; do
		if [ -s "$library" ]; then
			NSS_WRAPPER_PASSWD=$(mktemp)
			NSS_WRAPPER_GROUP=$(mktemp)
			printf 'postgres:x:%s:%s::%s:/bin/false\n' "$(id -u)" "$(id -g)" "$PGDATA" >"$NSS_WRAPPER_PASSWD"
			printf 'postgres:x:%s:\n' "$(id -g)" >"$NSS_WRAPPER_GROUP"
			export LD_PRELOAD=$library NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP
			return 0
		fi
	done
}

return_user_name() {
	if [ -n "${NSS_WRAPPER_PASSWD:-}" ]; then
		rm -f "$NSS_WRAPPER_PASSWD" "$NSS_WRAPPER_GROUP"
		unset LD_PRELOAD NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP
	fi
}

create_database_directory() {
	local -a asked=() args=("--username=$POSTGRES_USER")
	if [ -n "$POSTGRES_INITDB_WALDIR" ]; then
		args+=("--waldir=$POSTGRES_INITDB_WALDIR")
	fi
	# The variable is shell text by contract, so that an argument in it can be quoted.
	eval "asked=($POSTGRES_INITDB_ARGS)"
	lend_user_name
	# initdb refuses an empty password file, and with `trust` there may be no password.
	if [ -n "$POSTGRES_PASSWORD" ]; then
		initdb "${args[@]}" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") "${asked[@]}"
	else
		initdb "${args[@]}" "${asked[@]}"
	fi
	return_user_name
}

allow_clients() {
	local method=$POSTGRES_HOST_AUTH_METHOD
	if [ -z "$method" ]; then
		# With the server's own arguments: they may have changed the way in which passwords are stored.
		method=$(postgres -C password_encryption "$@")
	fi
	printf '\nhost all all all %s\n' "$method" >>"$PGDATA/pg_hba.conf"
}

# Quotes for sh, which is what pg_ctl hands its options to; bash's own %q may write $'…', which sh does not know.
quote_for_sh() {
	local arg
	for arg; do
		printf "'%s' " "${arg//\'/\'\\\'\'}"
	done
}

# Nobody outside may see the server before it is complete: it listens on the socket alone.
start_temporary_server() {
	# A supervisor that waits for readiness must not take this server for the real one.
	NOTIFY_SOCKET='' pg_ctl -D "$PGDATA" -w start \
		-o "$(quote_for_sh "$@" -c listen_addresses= -p "${PGPORT:-5432}")"
}

stop_temporary_server() {
	pg_ctl -D "$PGDATA" -m fast -w stop
}

# Through the socket, whatever server the variables of libpq would name.
run_psql() {
	PGHOST='' PGHOSTADDR='' psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --no-password --no-psqlrc "$@"
}

# Scripts in the init directory that are sourced call it by this name in the official image.
docker_process_sql() {
	run_psql --dbname "$POSTGRES_DB" "$@"
}

create_named_database() {
	local present
	present=$(run_psql --dbname postgres --set "name=$POSTGRES_DB" --tuples-only --no-align \
		<<<"SELECT 1 FROM pg_database WHERE datname = :'name';")
	if [ -z "$present" ]; then
		run_psql --dbname postgres --set "name=$POSTGRES_DB" <<<'CREATE DATABASE :"name";'
		say ''
	fi
}

run_init_files() {
	local file
	for file; do
		case $file in
		*.sh)
			if [ -x "$file" ]; then
				say "running $file"
				"$file"
			else
				say "sourcing $file"
				# The file was not written for unset variables being errors.
				set +u
				# shellcheck source=/dev/null
				. "$file"
				set -u
			fi
			;;
		*.sql)
			say "running $file"
			docker_process_sql --file "$file"
			say ''
			;;
		*.sql.gz)
			say "running $file"
			gunzip --stdout "$file" | docker_process_sql
			say ''
			;;
		*.sql.xz)
			say "running $file"
			xzcat "$file" | docker_process_sql
			say ''
			;;
		*.sql.zst)
			say "running $file"
			zstd --decompress --stdout "$file" | docker_process_sql
			say ''
			;;
		*) say "ignoring $file" ;;
		esac
	done
}

# initialise SERVER-ARGUMENTS…: a complete database in $PGDATA and no server left.
initialise() {
	local file
	local -a files=()
	require_password
	refuse_old_layout
	# A directory that cannot be read must stop us here, not be taken for an empty one after initdb.
	if [ -e "$INIT_DIR" ]; then
		ls "$INIT_DIR/" >/dev/null
	fi
	for file in "$INIT_DIR"/*; do
		if [ -e "$file" ]; then
			files+=("$file")
		fi
	done

	create_database_directory
	allow_clients "$@"

	export PGPASSWORD=${PGPASSWORD:-$POSTGRES_PASSWORD}
	start_temporary_server "$@"
	create_named_database
	run_init_files ${files[@]+"${files[@]}"}
	stop_temporary_server
	unset PGPASSWORD
}

main() {
	case ${1:-} in
	-*) set -- postgres "$@" ;;
	esac
	if [ "${1:-}" = postgres ] && ! asks_for_text_only "$@"; then
		read_environment
		prepare_directories
		if is_root; then
			exec gosu postgres "${BASH_SOURCE[0]}" "$@"
		fi
		if has_database; then
			say ''
			say 'PostgreSQL Database directory appears to contain a database; Skipping initialization'
			say ''
		else
			initialise "${@:2}"
			say ''
			say 'PostgreSQL init process complete; ready for start up.'
			say ''
		fi
	fi
	exec "$@"
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
	main "$@"
fi
