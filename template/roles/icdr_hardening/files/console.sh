# Runs SanteDB's administration console. Reads from standard input: user, password, application, secret, then the commands.
# Secrets pass through no file but one that only root reads, deleted at the end, and no command line outside.
set -eu
umask 077
script=$(mktemp)
trap 'rm -f "$script"' EXIT
IFS= read -r user
IFS= read -r password
IFS= read -r application
IFS= read -r secret
cat > "$script"
console=$(find /console /opt/santedb-console -name sdbac.exe 2>/dev/null | head -n 1)
if [ -n "$console" ]; then
  set -- mono "$console"
elif command -v sdbac >/dev/null; then
  set -- sdbac
elif [ -e /santedb/sdbac.exe ]; then
  set -- mono /santedb/sdbac.exe
else
  echo "FATAL: there is no administration console here"
  exit 0
fi
"$@" -r localhost --port "${CONSOLE_PORT:-8080}" -u "$user" -p "$password" -a "$application" -s "$secret" "$script" </dev/null 2>&1
