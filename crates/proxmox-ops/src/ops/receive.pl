# Takes an image from standard input into a file of its own and says the SHA-256 of what it wrote, or why not: one
# line that begins with a word of its own, past whatever the login shell's start-up files print.
# Arguments: the file, its size, and the configuration of the VM that is made of it. Without that the file stays;
# with it the file is there for as long as somebody is at the other end.
use Digest::SHA;
use Fcntl;
my ($path, $size, $config) = @ARGV;
my $say = sub { syswrite(STDOUT, join(q( ), q(fleet-image), @_) . qq(\n)) };
my $give_up = sub { unlink $path; $say->(q(failed:), @_); exit 1 };
$SIG{$_} = q(IGNORE) for qw(HUP PIPE);
$SIG{$_} = sub { unlink $path; exit 1 } for qw(INT TERM);
umask 077;
unlink $path;
sysopen(my $file, $path, O_WRONLY | O_CREAT | O_EXCL) or $give_up->(qq(can not create it: $!));
my ($sum, $left) = (Digest::SHA->new(256), $size);
while ($left > 0) {
    my $got = sysread(STDIN, my $bytes, $left < 262144 ? $left : 262144) // $give_up->(qq(can not read it: $!));
    $give_up->(qq($left of $size bytes did not come)) if !$got;
    for (my $done = 0; $done < $got;) {
        $done += syswrite($file, $bytes, $got - $done, $done) // $give_up->(qq(can not write it: $!));
    }
    $sum->add($bytes);
    $left -= $got;
}
close $file or $give_up->(qq(can not write it: $!));
$say->($sum->hexdigest);
exit 0 if !defined $config;

# A byte says that it is no longer needed. The end without one: whoever sent it is gone, but the node may have been
# told to make the VM of it. It is told at the latest after ten seconds, when none of its workers was free.
my $made = sub { open(my $text, q(<), $config) or return; grep { /^lock: create/ } readline($text) };
if (!sysread(STDIN, my $byte, 1)) {
    for (1 .. 10) { last if -e $config; sleep 1 }
    for (1 .. 86_400) { last if !$made->(); sleep 1 }
}
unlink $path;
$say->(q(removed));
