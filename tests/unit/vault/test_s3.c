/* test_s3: signatures against the examples that AWS publishes ("Authenticating Requests: Using the Authorization Header"), credentials, lists. */
#include "tap.h"
#include "vault/s3.h"

#define EMPTY "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#define STAMP "20130524T000000Z"

static struct s3_keys example_keys(void)
{
    struct s3_keys k = {.access = "AKIAIOSFODNN7EXAMPLE"};

    secret_set(&k.secret_key, "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", 40);
    return k;
}

static void is_signed(const char *method, const char *path, const char *query, const struct s3_pair *headers, size_t count, const char *payload, const char *signature,
                      const char *what)
{
    CLEANUP(s3_keys_release) struct s3_keys k = example_keys();
    CLEANUP(free_ptr) char *encoded = s3_path(path), *made = NULL;
    struct s3_signing s = {.method = method, .path = encoded, .query = query, .headers = headers, .header_count = count, .payload_sha256 = payload, .stamp = STAMP,
                           .region = "us-east-1"};

    made = s3_sign(&s, &k);
    is_str(strstr(made, "Signature=") ? strstr(made, "Signature=") + 10 : made, signature, "%s", what);
    ok(strstr(made, "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,SignedHeaders=") == made, "and says under what it is signed");
}

static void published(void)
{
    const struct s3_pair get[] = {{"host", "examplebucket.s3.amazonaws.com"}, {"range", "bytes=0-9"}, {"x-amz-content-sha256", EMPTY}, {"x-amz-date", STAMP}};
    const char *payload = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072";
    const struct s3_pair put[] = {{"date", "Fri, 24 May 2013 00:00:00 GMT"}, {"host", "examplebucket.s3.amazonaws.com"}, {"x-amz-content-sha256", payload}, {"x-amz-date", STAMP},
                                  {"x-amz-storage-class", "REDUCED_REDUNDANCY"}};
    const struct s3_pair plain[] = {{"host", "examplebucket.s3.amazonaws.com"}, {"x-amz-content-sha256", EMPTY}, {"x-amz-date", STAMP}};
    CLEANUP(free_ptr) char *lifecycle = s3_query((struct s3_pair[]){{"lifecycle", ""}}, 1);
    CLEANUP(free_ptr) char *list = s3_query((struct s3_pair[]){{"max-keys", "2"}, {"prefix", "J"}}, 2);
    CLEANUP(free_ptr) char *odd = s3_query((struct s3_pair[]){{"prefix", "a b/ü&="}}, 1);

    is_signed("GET", "/test.txt", "", get, ARRAY_COUNT(get), EMPTY, "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41", "a part of an object");
    is_signed("PUT", "/test$file.text", "", put, ARRAY_COUNT(put), payload, "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd", "an object is put");
    is_signed("GET", "/", lifecycle, plain, ARRAY_COUNT(plain), EMPTY, "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543", "a question without a value");
    is_signed("GET", "/", list, plain, ARRAY_COUNT(plain), EMPTY, "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7", "objects are listed");
    is_str(odd, "prefix=a%20b%2F%C3%BC%26%3D", "what travels in a question is encoded, slashes too");
}

static void credentials(void)
{
    static const char *const refused[] = {"", "aws_access_key_id = A\n", "[default]\naws_access_key_id = A\naws_secret_access_key =\n",
                                          "aws_access_key_id = A B\naws_secret_access_key = S\n", "[a]\naws_access_key_id = A\n[b]\naws_secret_access_key = S\n"};
    CLEANUP(s3_keys_release) struct s3_keys k = {0}, unset = {0};
    struct err e = {0};

    ok(s3_keys_parse("# words\n[default]\n  aws_access_key_id=AK\r\naws_secret_access_key = s/e+c=r \nregion = x\naws_session_token = t\n[other]\naws_access_key_id = B\n", &k, &e) == 0,
       "a credentials file as other tools have it (%s)", e.message);
    is_str(k.access, "AK", "its first section counts");
    is_str(k.secret_key.bytes, "s/e+c=r", "secrets may hold what they want");
    is_str(k.token.bytes, "t", "temporary ones have a token");
    for (size_t i = 0; i < ARRAY_COUNT(refused); i++) {
        err_clear(&e);
        ok(s3_keys_parse(refused[i], &unset, &e) < 0 && e.kind == ERR_INVALID, "refused: %s", e.message);
    }
}

static int count_object(const char *key, uint64_t size, void *user, struct err *e)
{
    struct buf *out = user;

    (void)e;
    return buf_printf(out, "%s=%llu;", key, (unsigned long long)size);
}

static void lists(void)
{
    static const char *const refused[] = {"", "<html>", "<ListBucketResult>", "<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>",
                                          "<ListBucketResult><Contents><Key>a</Key><Size>-1</Size></Contents></ListBucketResult>",
                                          "<ListBucketResult><Contents><Key>a</Key><Size>9x</Size></Contents></ListBucketResult>",
                                          "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
                                          "<ListBucketResult><Contents><Key>a</Key><Size>1</Size></Contents></ListBucketResult>",
                                          "<ListBucketResult><IsTruncated>True</IsTruncated><NextContinuationToken>a</NextContinuationToken></ListBucketResult>"};
    CLEANUP(buf_release) struct buf seen = {0};
    CLEANUP(free_ptr) char *next = NULL;
    struct err e = {0};

    ok(s3_list_parse("<?xml version=\"1.0\"?><ListBucketResult xmlns=\"x\"><IsTruncated>true</IsTruncated><NextContinuationToken>a&amp;b&#65;&#x42;</NextContinuationToken>"
                     "<Contents><Key>p/&lt;1&gt;&quot;&apos;</Key><LastModified>then</LastModified><Size>12</Size></Contents><Contents><Size>0</Size><Key>q&amp;amp;&nbsp;</Key></Contents>"
                     "</ListBucketResult>", count_object, &seen, &next, &e) == 0, "a page of a list (%s)", e.message);
    is_str(seen.data, "p/<1>\"'=12;q&amp;&nbsp;=0;", "with all objects, their names as they are");
    is_str(next, "a&bAB", "and how it goes on");
    for (size_t i = 0; i < ARRAY_COUNT(refused); i++) {
        char *none = NULL;

        err_clear(&e);
        ok(s3_list_parse(refused[i], count_object, &seen, &none, &e) < 0 && e.kind == ERR_PROTOCOL && !none, "refused: %s", e.message);
    }
}

int main(void)
{
    published();
    credentials();
    lists();
    return tap_done();
}
