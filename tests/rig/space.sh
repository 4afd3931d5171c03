# Makes new namespaces into a machine of its own, and stays as its first process: with it end all
# others, and the mounts and links with them.
# usage: space.sh DIRECTORY NAME (stay|attended) [SYSTEM]
#   attended: until the end of standard input; SYSTEM: a root file system whose programs it has.
set -eu
directory=$1 name=$2 how=$3 system=${4-}

# By the old /proc, so that the number is the one that this process has outside.
read -r stat </proc/self/stat
mount -t proc proc /proc
echo "$name" >/proc/sys/kernel/hostname
if [ "$system" ]; then
	# Over this machine's own: a container's files are found by the root of the namespace, thus no chroot.
	mount --bind "$system/etc" /etc
	mount --bind "$system/usr" /usr
fi
for place in root home run tmp srv; do
	if [ -d "$directory/$place" ] && [ -d "/$place" ]; then
		mount --bind "$directory/$place" "/$place"
	fi
done
for file in "$directory"/etc/*; do
	if [ -e "$file" ] && [ -e "/etc/${file##*/}" ]; then
		mount --bind "$file" "/etc/${file##*/}"
	fi
done
ip link set lo up
cd /
echo "$stat" >"$directory/holder.new"
mv "$directory/holder.new" "$directory/holder"

# Not exec: the shell that waits also takes leave of processes whose parent has ended.
if [ "$how" = stay ]; then
	sleep infinity
else
	cat >/dev/null
fi
