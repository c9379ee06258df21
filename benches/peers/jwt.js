// The token check of nginx in `make bench` and `make http2` (njs 0.7): HS256, exp and iss. Answers '1' for a token
// that is good; anything else, also an exception, means that it is refused.
import crypto from 'crypto';
import fs from 'fs';

const secret = fs.readFileSync('@SECRET_FILE@').toString().trim();

function decoded(part) {
    return JSON.parse(Buffer.from(part, 'base64url').toString());
}

function accepted(request) {
    try {
        const parts = request.args.access_token.split('.');
        if (parts.length !== 3 || decoded(parts[0]).alg !== 'HS256') {
            return '0';
        }
        const signature = crypto.createHmac('sha256', secret).update(parts[0] + '.' + parts[1]).digest('base64url');
        if (signature !== parts[2]) {
            return '0';
        }
        const claims = decoded(parts[1]);
        if (claims.iss !== 'https://issuer.test') {
            return '0';
        }
        return claims.exp > Date.now() / 1000 ? '1' : '0';
    } catch (error) {
        return '0';
    }
}

export default { accepted };
