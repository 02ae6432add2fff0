# Prints a ticket of root@pam and its CSRF token, one a line. Arguments: the cluster file system's directory,
# and `full` to leave out the short way.
my ($etc, $full) = @ARGV;
my $user = q(root@pam);

# Loading PVE::AccessControl takes ten times as long as the signature that is wanted of it. This does what it
# does with a key that is not due for rotation; whatever is not as expected is left to it.
my @made = eval {
    die qq(not asked for\n) if $full;
    require Crypt::OpenSSL::RSA;
    require MIME::Base64;
    require Digest::SHA;
    my $text = sub {
        open(my $file, q(<), qq($etc/$_[0])) or die qq(can not read $_[0]: $!\n);
        local $/;
        readline($file) // q();
    };
    my $age = time - ((stat qq($etc/authkey.pub))[9] // die qq(there is no authkey.pub\n));
    # Rotated after 24 h. Near that, or dated in the future, the daemon takes a ticket for minutes only.
    die qq(the key is $age s old\n) if $age < 0 || $age > 86_000;
    my $stamp = sprintf q(%08X), time;
    my $plain = qq(PVE:$user:$stamp);
    my $signature = Crypt::OpenSSL::RSA->new_private_key($text->(q(priv/authkey.key)))->sign($plain);
    Crypt::OpenSSL::RSA->new_public_key($text->(q(authkey.pub)))->verify($plain, $signature)
        or die qq(the keys are not of one pair\n);
    my $secret = Digest::SHA::hmac_sha256_base64($text->(q(pve-www.key)));
    my $proof = Digest::SHA::hmac_sha256_base64(qq($stamp:$user), $secret);
    ($plain . q(::) . MIME::Base64::encode_base64($signature, q()), qq($stamp:$proof));
};
if (!@made) {
    require PVE::AccessControl;
    @made = (
        PVE::AccessControl::assemble_ticket($user),
        PVE::AccessControl::assemble_csrf_prevention_token($user),
    );
}
# Lines of their own, whatever a login shell printed before them.
print map { qq($_\n) } q(), @made;
