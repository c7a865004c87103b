// Certificates of a holder from the directory, with nothing but the JDK:
//
//   java LookUp.java ldap://127.0.0.1:3890 o=DigitalID mail alice@example.org
//
// Over TLS, name a truststore with the directory's CA:
//
//   java -Djavax.net.ssl.trustStore=ca.p12 -Djavax.net.ssl.trustStorePassword=… \
//     LookUp.java ldaps://directory.example.org o=DigitalID digitalidSerialNumber 0a1b

import java.io.ByteArrayInputStream;
import java.security.cert.CertificateFactory;
import java.security.cert.X509Certificate;
import java.util.Base64;
import java.util.Collections;
import java.util.Hashtable;
import javax.naming.Context;
import javax.naming.NamingEnumeration;
import javax.naming.directory.Attribute;
import javax.naming.directory.SearchControls;
import javax.naming.directory.SearchResult;
import javax.naming.ldap.InitialLdapContext;

public class LookUp {
    private static final String CERTIFICATE = "userCertificate;binary";

    public static void main(String[] words) throws Exception {
        String url = words[0], base = words[1], attribute = words[2], value = words[3];

        Hashtable<String, String> environment = new Hashtable<>();
        environment.put(Context.INITIAL_CONTEXT_FACTORY, "com.sun.jndi.ldap.LdapCtxFactory");
        environment.put(Context.PROVIDER_URL, url);
        environment.put(Context.REFERRAL, "ignore");
        environment.put("com.sun.jndi.ldap.connect.timeout", "5000");
        environment.put("com.sun.jndi.ldap.read.timeout", "5000");

        SearchControls controls = new SearchControls();
        controls.setSearchScope(SearchControls.SUBTREE_SCOPE);
        controls.setReturningAttributes(new String[] {CERTIFICATE});

        CertificateFactory x509 = CertificateFactory.getInstance("X.509");
        InitialLdapContext context = new InitialLdapContext(environment, null);
        try {
            // {0}, not the value itself: JNDI escapes what stands in for it (RFC 4515).
            NamingEnumeration<SearchResult> found =
                context.search(base, "(" + attribute + "={0})", new Object[] {value}, controls);
            while (found.hasMore()) {
                Attribute certificates = found.next().getAttributes().get(CERTIFICATE);
                if (certificates == null) {
                    continue;
                }
                for (Object der : Collections.list(certificates.getAll())) {
                    X509Certificate certificate = (X509Certificate)
                        x509.generateCertificate(new ByteArrayInputStream((byte[]) der));
                    System.out.println("# " + certificate.getSubjectX500Principal());
                    System.out.println("# serial number " + certificate.getSerialNumber().toString(16));
                    System.out.println("-----BEGIN CERTIFICATE-----");
                    System.out.println(Base64.getMimeEncoder(64, new byte[] {'\n'})
                        .encodeToString(certificate.getEncoded()));
                    System.out.println("-----END CERTIFICATE-----");
                }
            }
        } finally {
            context.close();
        }
    }
}
